"""asyncio and uvloop natively, trio natively or through a thread, and programs that change their loop."""

from __future__ import annotations

import re

import pytest

from tests.acceptance.callers.conftest import Backend, Programs

every_backend = pytest.mark.parametrize("backend", ["memory", "disk", "postgres", "servers"], indirect=True)

USE = """
from specstar import QB, Job, SpecStar

spec = SpecStar()
spec.configure(backend=BACKEND)
users = spec.add_model(User, indexed_fields=["age"])

async def use(name="Ada"):
    info = await users.create(User(name, 36))
    assert (await users.get(info.resource_id)).data == User(name, 36)
    assert (await users.update(info.resource_id, User(name, 37))).revision_id != info.revision_id
    found = await users.search(QB["age"] == 37)
    assert info.resource_id in [item.resource_id for item in found], found
    assert [item async for item in users.iter(QB["age"] == 37)]
    blob = await spec.blobs.put(name.encode() * 1000)
    async with spec.blobs.open(blob.file_id) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == name.encode() * 1000
    return info.resource_id
"""


@every_backend
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_asyncio_is_the_home_itself_without_a_thread_or_a_task_between(
    programs: Programs, backend: Backend, loop: str
) -> None:
    done = programs.run(
        USE
        + """
import asyncio

async def main():
    async with spec:
        await use()
        loop = asyncio.get_running_loop()
        assert spec._gate.home.loop is loop
        assert type(loop).__module__.startswith(sys.argv[1]), loop
        assert "specstar-home" not in [thread.name for thread in threading.enumerate()]

        tasks = []
        def count(loop, coroutine, **options):
            tasks.append(coroutine)
            return asyncio.Task(coroutine, loop=loop, **options)

        loop.set_task_factory(count)
        caller = asyncio.current_task()

        async def look():
            return asyncio.current_task()

        assert await spec._gate.run(look) is caller
        assert await users._gate.run(look) is caller
        assert not tasks
        if BACKEND["meta"]["type"] == "memory":
            before = threading.active_count()
            await use("Grace")
            assert threading.active_count() == before
            assert len(tasks) <= 20, tasks

if sys.argv[1] == "uvloop":
    import uvloop
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
else:
    asyncio.run(main())
say("done")
""",
        backend,
        loop,
    )
    assert (done.out, done.err, done.code) == ("done\n", "", 0)


@every_backend
def test_trio_serves_every_backend_natively_where_it_can(programs: Programs, backend: Backend) -> None:
    done = programs.run(
        USE
        + """
import trio

@spec.job
async def send(job: Job[Email]) -> str:
    assert trio.lowlevel.in_trio_run() and threading.current_thread() is threading.main_thread()
    await trio.sleep(0.01)
    return "sent to " + job.payload.to

@spec.job
def print_it(job: Job[Email]) -> str:
    assert threading.current_thread() is not threading.main_thread()
    return "printed for " + job.payload.to

async def main():
    async with spec:
        await use()
        native = BACKEND["meta"]["type"] in ("memory", "disk")
        assert ("specstar-home" in [thread.name for thread in threading.enumerate()]) is not native
        async with trio.open_nursery() as nursery:
            nursery.start_soon(spec.run_workers)
            for queue in (send, print_it):
                job = await queue.enqueue(Email("ada@example.com"))
                say((await queue.wait(job.job_id, timeout=20)).result)
            nursery.cancel_scope.cancel()
    assert "specstar-home" not in [thread.name for thread in threading.enumerate()]

trio.run(main)
""",
        backend,
    )
    assert (done.out, done.err, done.code) == ("sent to ada@example.com\nprinted for ada@example.com\n", "", 0)


@pytest.mark.parametrize("backend", ["postgres"], indirect=True)
def test_cancelling_a_search_in_trio_cancels_its_statement_on_the_server(programs: Programs, backend: Backend) -> None:
    done = programs.run(
        USE
        + """
import asyncio, asyncpg, trio

DSN = BACKEND["meta"]["options"]["dsn"]
RUNNING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active'"
locked, checked = threading.Event(), threading.Event()

async def hold():
    connection = await asyncpg.connect(DSN)
    async with connection.transaction():
        names = await connection.fetch("SELECT schemaname, tablename FROM pg_tables WHERE schemaname !~ '^(pg_|inf)'")
        for schema, table in names:
            await connection.execute(f'LOCK TABLE "{schema}"."{table}" IN ACCESS EXCLUSIVE MODE')
        locked.set()
        await asyncio.to_thread(checked.wait)
        say("running afterwards:", await connection.fetchval(RUNNING) - 1)
    await connection.close()

async def main():
    async with spec:
        known = await use()
        holder = threading.Thread(target=asyncio.run, args=(hold(),))
        holder.start()
        await trio.to_thread.run_sync(locked.wait)
        began = time.monotonic()
        with trio.move_on_after(0.5) as scope:
            await users.search(QB["age"] == 37)
        say("cancelled", scope.cancelled_caught, time.monotonic() - began < 5)
        checked.set()
        await trio.to_thread.run_sync(holder.join)
        say("then", (await users.get(known)).data.age)

trio.run(main)
""",
        backend,
    )
    assert (done.out, done.err) == ("cancelled True True\nrunning afterwards: 0\nthen 37\n", "")


TURNS = {
    "asyncio.run again and again": "lambda: asyncio.run(use())",
    "a new loop that is closed with its pool open": "fresh_loop",
    "the loop of a new thread": "in_thread",
    "trio.run again and again": "lambda: trio.run(use)",
    "all in turn": "in_turn",
}


@pytest.mark.parametrize("turn", TURNS)
def test_a_program_that_changes_its_loop_connects_anew_and_leaves_nothing_behind(
    programs: Programs, backend: Backend, turn: str
) -> None:
    done = programs.run(
        USE
        + """
import asyncio, gc, itertools, trio
from specstar import sync

def fresh_loop():
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())
    loop.close()

def in_thread():
    thread = threading.Thread(target=asyncio.run, args=(use(),))
    thread.start()
    thread.join()

def blocking():
    with sync.SpecStar(spec) as here:
        here.add_model(User, indexed_fields=["age"]).create(User("Alan"))

ways = itertools.cycle([lambda: asyncio.run(use()), fresh_loop, in_thread, lambda: trio.run(use), blocking])

def in_turn():
    next(ways)()

turn = eval(sys.argv[1])
counts = []
for number in range(16):
    turn()
    gc.collect()
    counts.append(open_files())
# What the last loop left is closed by the next; the first ones load modules.
say("files", max(counts[10:]) - max(counts[:10]) <= 0, counts if max(counts[10:]) > max(counts[:10]) else "")

async def end():
    async with spec:
        say("stored", await users.count() >= 16)

asyncio.run(end())
gc.collect()
def others():
    names = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    return [name for name in names if not name.startswith("Trio")]

# The end of a loop tells its threads to end, but does not wait for it.
until = time.monotonic() + 10
while others() and time.monotonic() < until:
    time.sleep(0.01)
say("threads", others())
""",
        backend,
        TURNS[turn],
        flags=("-W", "always::ResourceWarning"),
        timeout=100,
    )
    assert (done.out, done.code) == ("files True \nstored True\nthreads []\n", 0), done.err
    assert "Traceback" not in done.err
    warnings = re.findall(r"ResourceWarning: unclosed.*", done.err)
    # Of a loop that was closed under an open pool, Python itself speaks.
    assert len(warnings) <= {"fresh_loop": 16, "in_turn": 4}.get(TURNS[turn], 0), warnings


def test_two_live_loops_and_a_pool_of_threads_share_one_spec(programs: Programs, backend: Backend) -> None:
    done = programs.run(
        USE
        + """
import asyncio
from concurrent.futures import ThreadPoolExecutor

async def main():
    async with spec:
        home = await use()
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(8) as pool:
            ids = await asyncio.gather(*(loop.run_in_executor(pool, lambda: asyncio.run(use())) for _ in range(24)))
        assert spec._gate.home.loop is loop and spec._gate.generation == 1
        say(len(set(ids)), await users.count())

asyncio.run(main())
""",
        backend,
    )
    assert (done.out, done.err) == ("24 25\n", "")


def test_the_loop_of_the_connections_ends_under_callers_on_another(programs: Programs, backend: Backend) -> None:
    """They get an answer or an error that says what happened; nobody hangs, and their next call works."""
    done = programs.run(
        USE
        + """
import asyncio
from specstar.errors import BackendUnavailable, OutcomeUnknownError

ready, over = threading.Event(), threading.Event()

async def short():
    await use()
    ready.set()
    await asyncio.sleep(0.3)

threading.Thread(target=lambda: (asyncio.run(short()), over.set())).start()
outcomes = []

async def call():
    try:
        await use()
        outcomes.append("done")
    except (BackendUnavailable, OutcomeUnknownError) as error:
        outcomes.append(type(error).__name__)

async def main():
    ready.wait()
    async with spec:
        while not over.is_set():
            await asyncio.gather(*(call() for _ in range(8)))
        began = len(outcomes)
        await asyncio.gather(*(call() for _ in range(8)))
        say(outcomes[began:] == ["done"] * 8, "done" in outcomes[:began])

asyncio.run(main())
""",
        backend,
    )
    assert (done.out, done.code) == ("True True\n", 0), done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("backend", ["memory", "disk"], indirect=True)
def test_a_trio_run_ends_under_callers_in_other_threads(programs: Programs, backend: Backend) -> None:
    """What is acknowledged is there, whichever run or thread had the connections, and whoever comes next opens them anew."""
    done = programs.run(
        USE
        + """
import asyncio
import trio
from specstar import sync
from specstar.errors import BackendUnavailable, OutcomeUnknownError

blocking = sync.SpecStar(spec).get_resource_manager(User)
over = threading.Event()
made, failed = [], []

def told(error):
    failed.append(type(error).__name__)

async def call(number):
    while not over.is_set():
        try:
            made.append((await users.create(User("Ada", number))).resource_id)
        except (BackendUnavailable, OutcomeUnknownError) as error:
            told(error)

def block(number):
    while not over.is_set():
        try:
            made.append(blocking.create(User("Ada", number)).resource_id)
        except (BackendUnavailable, OutcomeUnknownError) as error:
            told(error)

async def short():
    await users.count()
    homes.add(type(spec._gate.home).__name__)
    await trio.sleep(0.1)

async def main():
    async with spec:
        found = await users.get_many(made)
        say(None not in found, len(found) > 10, "TrioHome" in homes, "ThreadHome" in homes or "AsyncioHome" in homes)

homes = set()
trio.run(short)
threads = [threading.Thread(target=lambda: asyncio.run(call(1))), threading.Thread(target=block, args=[2])]
for thread in threads:
    thread.start()
for _ in range(5):
    trio.run(short)
    before = len(made)
    while len(made) == before:
        time.sleep(0.01)
    homes.add(type(spec._gate.home).__name__)
over.set()
for thread in threads:
    thread.join(20)
say([thread.is_alive() for thread in threads])
trio.run(main)
""",
        backend,
    )
    assert (done.out, done.code) == ("[False, False]\nTrue True True True\n", 0), done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("backend", ["memory", "servers"], indirect=True)
def test_workers_whose_spec_was_opened_on_a_loop_that_ends_say_so(programs: Programs, backend: Backend) -> None:
    """Instead of returning as if they had been told to stop: nobody would work any more."""
    done = programs.run(
        """
import asyncio
from specstar import Job, SpecStar
from specstar.errors import OutcomeUnknownError

spec = SpecStar()
spec.configure(backend=BACKEND)
ready, working, seen = threading.Event(), threading.Event(), []

@spec.job
async def note(job: Job[User]) -> None:
    seen.append(job.payload.name)
    working.set()

async def short():
    await note.enqueue(User("first"))
    ready.set()
    await asyncio.to_thread(working.wait)

thread = threading.Thread(target=lambda: asyncio.run(short()))
thread.start()
ready.wait()

async def main():
    try:
        await spec.run_workers(handle_signals=False)
    except OutcomeUnknownError as error:
        say("call run_workers() again" in str(error))
    thread.join()
    workers = asyncio.create_task(spec.run_workers(handle_signals=False))
    await note.enqueue(User("second"))
    while "second" not in seen:
        await asyncio.sleep(0.01)
    await spec.aclose()
    await workers

asyncio.run(main())
""",
        backend,
    )
    assert (done.out, done.code) == ("True\n", 0), done.err
