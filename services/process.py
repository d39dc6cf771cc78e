"""A server process under guard: started, signalled, killed, and never left behind."""

import os
import pwd
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.errors import ServiceError
from services.guard import descendants

GUARD = Path(__file__).with_name("guard.py")
LOG_TAIL_LINES = 25
STOP_SECONDS = 2.0


def unprivileged_user(*preferred: str) -> tuple[int, int] | None:
    """The (uid, gid) that a server should run as: None unless we are root, which servers refuse or should not be."""
    if os.geteuid() != 0:
        return None
    for name in (*preferred, "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise ServiceError("running as root, and there is no unprivileged user (not even nobody) to run a server as")


def give_to(path: Path, owner: tuple[int, int] | None) -> Path:
    if owner is not None:
        os.chown(path, *owner)
    return path


def run_program(
    command: Sequence[str | Path],
    *,
    directory: Path,
    owner: tuple[int, int] | None,
    environment: Mapping[str, str] | None = None,
    timeout: float = 60.0,
) -> str:
    """Runs a program to its end as the server's user and returns its output. Raises ServiceError."""
    name = Path(command[0]).name
    uid, gid = owner if owner is not None else (None, None)
    try:
        done = subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            cwd=directory,
            env=environment,
            user=uid,
            group=gid,
            extra_groups=None if owner is None else [],
        )
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"{name} did not end within {timeout:g} s") from error
    if done.returncode != 0:
        raise ServiceError(f"{name} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


def _stands_still(pid: int) -> bool:
    """No thread of the process runs; a process that is gone does not either."""
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            state = stat.read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state not in "TtZX":
            return False
    return True


class GuardedProcess:
    """One server program. Not thread-safe; the owner is a `Server`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        directory: Path,
        environment: Mapping[str, str] | None = None,
        owner: tuple[int, int] | None = None,
        last_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.log = directory / f"{name}.log"
        self._pid_file = directory / f"{name}.guarded.pid"
        self._directory = directory
        self._environment = environment
        self._owner = owner
        self._last_signal = last_signal
        self._guard: subprocess.Popen[bytes] | None = None
        self._home_pid = os.getpid()

    @property
    def running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    @property
    def pid(self) -> int:
        """The server's own process id. Raises ServiceError when it is not running."""
        if not self.running:
            raise ServiceError(f"{self.name} is not running")
        return int(self._pid_file.read_text())

    @property
    def pids(self) -> list[int]:
        """Every process of the server, parents first; empty when it is not running."""
        return descendants(self._guard.pid) if self._guard is not None and self.running else []

    def start(self) -> None:
        if self.running:
            raise ServiceError(f"{self.name} is running already")
        self._pid_file.unlink(missing_ok=True)
        owner = "-" if self._owner is None else f"{self._owner[0]}:{self._owner[1]}"
        guard = [sys.executable, "-I", "-S", GUARD, os.getpid(), self._pid_file, self._directory, owner]
        with self.log.open("ab") as log:
            log.write(f"$ {shlex.join(self.command)}\n".encode())
            log.flush()
            # A session of its own: Ctrl-C at the terminal must reach the tests, not the servers they still need.
            self._guard = subprocess.Popen(
                [*map(str, guard), str(int(self._last_signal)), "--", *self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                env=dict(self._environment) if self._environment is not None else None,
                start_new_session=True,
            )
        deadline = time.monotonic() + 10
        while not (self._pid_file.exists() and self._pid_file.read_text()):
            if not self.running or time.monotonic() > deadline:
                raise ServiceError(f"{self.name} did not start\n{self.tail()}")
            time.sleep(0.005)

    def stop(self, with_signal: signal.Signals, *, grace_seconds: float) -> None:
        """Asks the server to end and waits; what is still there after the grace time is killed."""
        if self._guard is None or os.getpid() != self._home_pid:
            return
        if self.running:
            try:
                os.kill(self.pid, with_signal)
                self._guard.wait(grace_seconds)
            except (ProcessLookupError, FileNotFoundError, subprocess.TimeoutExpired):
                pass
        self._end(signal.SIGUSR1)

    def kill(self) -> None:
        """SIGKILL to every process of the server, as a crash would; returns when all are gone."""
        self._end(signal.SIGUSR1)

    def close(self) -> None:
        """Ends the server by the quickest way that leaves nothing behind."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, as on a host that hangs. Waits until all stand still."""
        stopped = self.pids
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        # A thread that is inside the kernel stops only when it leaves, and may answer until then. One that sleeps there
        # without end (a disk that hangs) answers nothing either: it is not waited for any longer.
        deadline = time.monotonic() + STOP_SECONDS
        while not all(map(_stands_still, stopped)) and time.monotonic() < deadline:
            time.sleep(0.005)

    def resume(self) -> None:
        for pid in reversed(self.pids):
            os.kill(pid, signal.SIGCONT)

    def tail(self) -> str:
        """The last lines of the log, for an error message."""
        if not self.log.exists():
            return "(no log)"
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([f"--- {self.log}", *lines])

    def _end(self, with_signal: signal.Signals) -> None:
        # In a forked child the servers are its parent's.
        if self._guard is None or os.getpid() != self._home_pid:
            return
        if self._guard.poll() is None:
            self._guard.send_signal(with_signal)
        try:
            self._guard.wait(20)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        self._guard = None
