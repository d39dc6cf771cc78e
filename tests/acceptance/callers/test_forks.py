"""Forked and spawned children open connections of their own; the parent's stay intact."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import httpx
import pytest

from tests.acceptance.callers.conftest import PRELUDE, Backend, Programs

every_backend = pytest.mark.parametrize("backend", ["memory", "disk", "postgres", "servers"], indirect=True)

# Python 3.12 warns of forks beside threads.
FORKS = """
import warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
"""

SCRIPT = (
    FORKS
    + """
from specstar import Job
from specstar.sync import spec

spec.configure(backend=BACKEND)
users = spec.add_model(User)

@spec.job
def send(job: Job[Email]) -> None: ...

def use(name):
    blob = spec.blobs.put(name.encode())
    assert spec.blobs.get(blob.file_id) == name.encode()
    if BACKEND["mq"]["type"] != "simple":  # which says what is lost at the end
        send.enqueue(Email(name))
    return users.create(User(name)).resource_id

def sessions():
    if BACKEND["meta"]["type"] != "postgres":
        return set()
    import asyncio, asyncpg
    async def ask():
        connection = await asyncpg.connect(BACKEND["meta"]["options"]["dsn"])
        rows = await connection.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await connection.close()
        return {row["pid"] for row in rows}
    return asyncio.run(ask())
"""
)


@every_backend
def test_after_os_fork_both_go_on(programs: Programs, backend: Backend) -> None:
    done = programs.run(
        SCRIPT
        + """
with spec:
    known = use("parent")
    for _ in range(20):
        users.exists(known)
    calls = sum(batch.calls for batch in spec.metrics().batches)
    before = sessions()
    for number in range(3):
        child = os.fork()
        if child == 0:
            durable = BACKEND["meta"]["type"] != "memory"
            try:
                assert all(batch.calls == 0 for batch in spec.metrics().batches)
                mine = use(f"child {number}")
                assert users.exists(known)
                assert sum(batch.calls for batch in spec.metrics().batches) <= calls
                spec.close()
                os._exit(0)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        assert use("parent again") and users.get(known).data.name == "parent"
    assert before <= sessions(), "a child ended a session of its parent"
    say(users.count())
""",
        backend,
    )
    expected = 4 if backend["meta"]["type"] == "memory" else 7
    assert (done.out, done.err) == (f"0\n0\n0\n{expected}\n", "")


@every_backend
def test_a_fork_while_threads_are_in_the_middle_of_calls(programs: Programs, backend: Backend) -> None:
    done = programs.run(
        SCRIPT
        + """
stop = threading.Event()
written = []

def write():
    while not stop.is_set():
        written.append(use("busy"))

with spec:
    use("parent")
    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    codes = []
    for number in range(8):
        child = os.fork()
        if child == 0:
            try:
                use("child")
                spec.close()
                os._exit(0)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    stop.set()
    for thread in threads:
        thread.join()
    say(codes, all(users.exists(item) for item in written), len(written) > 0)
""",
        backend,
        timeout=90,
    )
    assert (done.out, done.err) == (f"{[0] * 8} True True\n", "")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(programs: Programs, backend: Backend, method: str) -> None:
    done = programs.run(
        SCRIPT
        + """
import multiprocessing

def work(number):
    return [users.create(User(f"{number}")).resource_id for _ in range(5)]

if __name__ == "__main__":
    with spec:
        use("parent")
        before = sessions()
        with multiprocessing.get_context(sys.argv[1]).Pool(3) as pool:
            ids = sum(pool.map(work, range(12)), [])
            pool.close()
            pool.join()
        assert before <= sessions()
        say(len(set(ids)), sum(found is not None for found in users.get_many(ids)), users.count())
""",
        backend,
        method,
        timeout=90,
    )
    assert (done.out, done.code) == ("60 60 61\n", 0), done.err
    assert "Traceback" not in done.err


def test_a_fork_in_the_middle_of_an_asyncio_program(programs: Programs, backend: Backend) -> None:
    done = programs.run(
        FORKS
        + """
import asyncio
from specstar import SpecStar

spec = SpecStar()
spec.configure(backend=BACKEND)
users = spec.add_model(User)

async def main():
    async with spec:
        known = (await users.create(User("parent"))).resource_id
        child = os.fork()
        if child == 0:
            from specstar import sync
            blocking = sync.SpecStar(spec)
            try:
                say("child", blocking.get_resource_manager(User).get(known).data.name)
                blocking.close()
                os._exit(0)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
        await asyncio.to_thread(os.waitpid, child, 0)
        say("parent", (await users.get(known)).data.name, (await users.update(known, User("later"))).status)

asyncio.run(main())
""",
        backend,
    )
    assert (done.out, done.err) == ("child parent\nparent parent stable\n", "")


def test_gunicorn_with_preload(programs: Programs, backend: Backend, tmp_path: Path) -> None:
    """The application is loaded, and used, before the workers are forked."""
    (tmp_path / "served.py").write_text(
        PRELUDE
        + SCRIPT
        + """
known = use("loaded")

def application(environ, start_response):
    text = f"{os.getpid()} {users.get(known).data.name} {users.create(User('request')).status}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]
"""
    )
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--preload",
        "--workers",
        "2",
        "--threads",
        "4",
        "--bind",
        "127.0.0.1:0",
    ]
    server = programs.start_command([*command, "served:application"], backend, tmp_path)
    address = ""
    for _ in range(300):
        found = re.search(r"Listening at: (http://127\.0\.0\.1:\d+)", (tmp_path / "stderr").read_text())
        if found:
            address = found.group(1)
            break
        assert server.process.poll() is None, (tmp_path / "stderr").read_text()
        signal.sigtimedwait([], 0.1)
    with httpx.Client(timeout=20) as client:
        answers = [client.get(address, headers={"Connection": "close"}).text.split(" ", 1) for _ in range(40)]
    assert {answer for _, answer in answers} == {"loaded stable"}
    assert str(server.process.pid) not in {pid for pid, _ in answers}
    server.signal(signal.SIGTERM)
    done = server.end()
    assert done.code == 0
    assert "Traceback" not in done.err, done.err
    assert done.seconds < 10
