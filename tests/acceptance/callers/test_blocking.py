"""The blocking facade: scripts, many threads, a running loop, a notebook, and jobs."""

from __future__ import annotations

import signal

import pytest

from tests.acceptance.callers.conftest import Backend, Programs

SCRIPT = """
from specstar import QB, Job
from specstar.sync import SpecStar, spec

spec.configure(backend=BACKEND)
users = spec.add_model(User, indexed_fields=["age"])
"""


@pytest.mark.parametrize("backend", ["memory", "disk", "postgres", "servers"], indirect=True)
def test_a_script_needs_no_event_loop(programs: Programs, backend: Backend) -> None:
    done = programs.run(
        SCRIPT
        + """
with spec:
    many = users.create_many([User(f"user {n}", n) for n in range(450)])
    users.patch(many[0].resource_id, {"age": 1000})
    iterator = users.iter(QB["age"] >= 0, sort=["-age"])
    say(next(iterator).data.age, len(list(iterator)), users.count(QB["age"] > 400))
    with users.using(user="ada"):
        say(users.update(many[1].resource_id, User("renamed")).created_by)
    blob = spec.blobs.put(bytes(3 << 20))
    with spec.blobs.open(blob.file_id, start=1) as chunks:
        say(chunks.info.size, sum(map(len, chunks)))
    say([report.ok for report in spec.check()])
say([thread.name for thread in threading.enumerate() if thread.name == "specstar-home"])
say(users.count() if BACKEND["meta"]["type"] != "memory" else 450)  # opens again
spec.close()
""",
        backend,
        flags=("-W", "error"),
    )
    assert done.out.splitlines() == ["1000 449 50", "ada", "3145728 3145727", "[True, True, True, True]", "[]", "450"]
    assert (done.err, done.code) == ("", 0)


def test_thirty_two_threads_share_batches(programs: Programs, backend: Backend) -> None:
    done = programs.run(
        SCRIPT
        + """
import gc
from concurrent.futures import ThreadPoolExecutor
from specstar.runtime import Batcher

with spec:
    users.create(User("first"))
    batchers = [item for item in gc.get_objects() if isinstance(item, Batcher)]
    before = sum(item.counts.requests for item in batchers), sum(item.counts.calls for item in batchers)
    with ThreadPoolExecutor(32) as pool:
        ids = list(pool.map(lambda n: users.create(User("user", n)).resource_id, range(1600)))
        read = list(pool.map(lambda n: users.get(ids[n]).data.age, range(1600)))
    flushes = sum(item.counts.requests for item in batchers) - before[0]
    items = sum(item.counts.calls for item in batchers) - before[1]
    say(read == list(range(1600)), len(set(ids)), items >= 3200, flushes * 2 <= items, (flushes, items))
    say(threading.active_count() < 80)
""",
        backend,
    )
    assert done.out.startswith("True 1600 True True"), (done.out, done.err)
    assert done.out.endswith("True\n")
    assert done.err == ""


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_in_a_running_loop_every_call_is_refused_at_once_with_advice(
    programs: Programs, backend: Backend, library: str
) -> None:
    done = programs.run(
        SCRIPT
        + """
import anyio
from specstar.errors import UsageError

async def main():
    calls = [
        lambda: users.create(User("Ada")), lambda: next(users.iter()), lambda: spec.check(),
        lambda: spec.blobs.get("0" * 64), lambda: spec.blobs.open("0" * 64).__enter__(), lambda: spec.collect_garbage(),
    ]
    for call in calls:
        try:
            call()
        except UsageError as error:
            assert f"running {sys.argv[1]} event loop" in str(error) and "from specstar import spec" in str(error)
            assert "await" in str(error)
        else:
            raise AssertionError("it was allowed")
    # In a thread it is right.
    say(await anyio.to_thread.run_sync(lambda: users.create(User("Ada")).status))
    await anyio.to_thread.run_sync(spec.close)

anyio.run(main, backend=sys.argv[1])
""",
        backend,
        library,
    )
    assert (done.out, done.err) == ("stable\n", "")


def test_a_notebook_awaits_in_its_cells_and_is_told_so(programs: Programs, backend: Backend) -> None:
    done = programs.run(
        """
import nbformat
from nbclient import NotebookClient

cells = [
    "import json, os",
    "from msgspec import Struct",
    "from specstar import QB, SpecStar",
    "class User(Struct):\\n    name: str\\n    age: int = 0",
    "spec = SpecStar()\\nspec.configure(backend=json.loads(os.environ['BACKEND']));",
    "users = spec.add_model(User, indexed_fields=['age'])",
    "info = await users.create(User('Ada', 36))",
    "[found.data.name async for found in users.iter(QB['age'] == 36)]",
    "from specstar import sync\\nblocking = sync.SpecStar(spec).get_resource_manager(User)",
    "try:\\n    blocking.get(info.resource_id)\\nexcept Exception as error:\\n    print(type(error).__name__, error)",
    "import asyncio\\n(await asyncio.to_thread(blocking.get, info.resource_id)).data.name",
    "await spec.configure(backend=json.loads(os.environ['BACKEND']))\\n(await users.get(info.resource_id)).data.age",
    "await spec.aclose()",
]
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
for cell in notebook.cells:
    for output in cell.outputs:
        say(output.get("text", output.get("data", {}).get("text/plain", output)).strip())
""",
        backend,
        timeout=100,
    )
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "['Ada']"
    assert lines[1].startswith("UsageError a blocking specstar call inside a running asyncio event loop")
    assert "await works in its cells" in lines[1]
    assert lines[2:] == ["'Ada'", "36"]


WORKER = (
    SCRIPT
    + """
@spec.job(max_retries=1)
def send(job: Job[Email]) -> str:
    say("begins", job.payload.to)
    time.sleep(float(job.payload.to.split("@")[0]))
    users.create(User(job.payload.to))  # a handler may use the same spec
    return "sent"

@spec.job
async def note(job: Job[Email]) -> str:
    say("noted", job.payload.to)
    return "noted"
"""
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_blocking_workers_drain_on_a_signal(programs: Programs, rabbit: Backend, number: int) -> None:
    worker = programs.start(WORKER + 'with spec:\n    say("ready")\n    spec.run_workers()\nsay("left")\n', rabbit)
    assert worker.line() == "ready"
    sender = programs.run(
        WORKER
        + """
with spec:
    quick = note.enqueue(Email("now@example.com"))
    say(note.wait(quick.job_id, timeout=20).result, note(quick) is not None)
    say(send.enqueue(Email("1@example.com")).job_id)
""",
        rabbit,
        flags=("-W", "ignore::RuntimeWarning"),
    )
    assert sender.code == 0, sender.err
    assert worker.line() == "noted now@example.com"
    assert worker.line() == "begins 1@example.com"
    worker.signal(number)
    done = worker.end()
    assert (done.out, done.err, done.code) == ("left\n", "", 0)
    job_id = sender.out.splitlines()[-1]
    after = programs.run(WORKER + "with spec:\n    say(send.get(sys.argv[1]).status, users.count())\n", rabbit, job_id)
    assert after.out == "succeeded 1\n", after.err


def test_workers_in_a_thread_serve_a_script(programs: Programs, backend: Backend) -> None:
    done = programs.run(
        WORKER
        + """
from specstar.message_queue import WorkerStop
stop = WorkerStop()
with spec:
    worker = threading.Thread(target=spec.run_workers, kwargs={"stop": stop, "concurrency": 2})
    worker.start()
    job = send.enqueue(Email("0.1@example.com"), idempotency_key="once")
    assert send.enqueue(Email("0.1@example.com"), idempotency_key="once").job_id == job.job_id
    say(send.wait(job.job_id, timeout=20).result, send.name, send.__name__, send.count(), send.list_dead())
    assert spec.get_job_queue("send") is send
    stop.set()
    worker.join(20)
    queue = spec.add_job(Email, lambda job: job.payload.to, name="plain")
    say(worker.is_alive(), queue.depth())
""",
        backend,
    )
    assert (done.out, done.err) == ("begins 0.1@example.com\nsent send send 1 []\nFalse 0\n", "")
