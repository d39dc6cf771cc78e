"""Runs one server and guarantees that nothing of it outlives the process that asked for it.

Started by `services.process` as a script: `guard.py PARENT PID_FILE DIRECTORY UID:GID|- SIGNAL -- COMMAND...`.
It adopts whatever the server leaves behind (Linux's child subreaper), so daemons and orphaned workers end as well.
SIGTERM or the parent's death: SIGNAL to the server, a short wait, then SIGKILL to all. SIGUSR1: SIGKILL to all at once.
"""

import ctypes
import os
import shutil
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GRACE_SECONDS = 5.0
POLL_SECONDS = 0.5


def prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the guard still kills the server itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in task.read_text().split()]
        except OSError:
            continue
    return found


def descendants(pid: int) -> list[int]:
    """Parents before their children."""
    found = children_of(pid)
    for child in found:
        found += children_of(child)
    return found


def signal_quietly(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def exec_server(command: list[str], owner: str, guard: int) -> None:
    os.setsid()
    if owner != "-":
        uid, gid = map(int, owner.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # After setuid, which clears it; the check closes the gap in which the guard may have died.
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execvp(command[0], command)


def reap(main: int) -> int | None:
    """Collects every ended child; the exit status of the server itself, once it has ended."""
    ended = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        if pid == main:
            ended = os.waitstatus_to_exitcode(status)


def kill_all(main: int) -> None:
    """Returns when no descendant is left, or after the grace time for one stuck in the kernel."""
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        reap(main)
        left = descendants(os.getpid())
        if not left:
            return
        for pid in left:
            signal_quietly(pid, signal.SIGKILL)
        time.sleep(0.005)


def main() -> int:
    parent, pid_file, directory, owner, last_signal = sys.argv[1:6]
    command = sys.argv[7:]
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    watched = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    guard = os.getpid()
    server = os.fork()
    if server == 0:
        try:
            exec_server(command, owner, guard)
        except OSError as error:
            print(f"cannot run {command[0]}: {error}", file=sys.stderr)
        finally:
            os._exit(127)
    Path(pid_file).write_text(str(server))

    deadline: float | None = None
    orphaned = False
    while (status := reap(server)) is None:
        caught = signal.sigtimedwait(watched, POLL_SECONDS)
        if caught is not None and caught.si_signo == signal.SIGUSR1:
            break
        orphaned = orphaned or os.getppid() != int(parent)
        asked = caught is not None and caught.si_signo in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        if (asked or orphaned) and deadline is None:
            deadline = time.monotonic() + GRACE_SECONDS
            signal_quietly(server, signal.SIGCONT)
            signal_quietly(server, int(last_signal))
        if deadline is not None and time.monotonic() > deadline:
            break
    kill_all(server)
    Path(pid_file).unlink(missing_ok=True)
    if orphaned:
        shutil.rmtree(directory, ignore_errors=True)
    return status if status is not None and status >= 0 else 0


if __name__ == "__main__":
    sys.exit(main())
