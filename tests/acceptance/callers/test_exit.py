"""Programs that end: with everything open, with an error, by Ctrl-C in the middle of anything."""

from __future__ import annotations

import re
import signal
import time

import pytest

from tests.acceptance.callers.conftest import Backend, Programs

STYLES = ["asyncio", "uvloop", "trio", "sync", "asyncio and sync"]

SCRIPT = """
from specstar import SpecStar, sync

spec = SpecStar()
spec.configure(backend=BACKEND)
users = spec.add_model(User, indexed_fields=["age"])
blocking = sync.SpecStar(spec)
blocking_users = blocking.get_resource_manager(User)

def run(style, function):
    if style == "asyncio":
        import asyncio
        return asyncio.run(function())
    if style == "uvloop":
        import asyncio, uvloop
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(function())
    if style == "trio":
        import trio
        return trio.run(function)

async def use():
    info = await users.create(User("Ada"))
    await users.get(info.resource_id)
    await spec.blobs.put(b"some bytes")

def use_blocking():
    info = blocking_users.create(User("Ada"))
    blocking_users.get(info.resource_id)
    blocking.blobs.put(b"some bytes")
"""

OPEN_TO_THE_END = """
for style in sys.argv[1].split(" and "):
    if style == "sync":
        use_blocking()
    else:
        run(style, use)
say("over")
"""


@pytest.mark.parametrize("style", STYLES)
def test_an_open_spec_does_not_keep_the_program_and_the_warning_names_what_is_open(
    programs: Programs, backend: Backend, style: str
) -> None:
    quiet = programs.run(SCRIPT + OPEN_TO_THE_END, backend, style)
    assert (quiet.out, quiet.err, quiet.code) == ("over\n", "", 0)
    told = programs.run(SCRIPT + OPEN_TO_THE_END, backend, style, flags=("-W", "always::ResourceWarning"))
    assert (told.out, told.code) == ("over\n", 0)
    ours = re.findall(r"ResourceWarning: specstar was not closed \(open: (.*)\)", told.err)
    assert len(ours) == 1, told.err
    assert backend["meta"]["type"] in ours[0]
    assert "Traceback" not in told.err
    assert "Exception ignored" not in told.err


@pytest.mark.parametrize("style", STYLES)
def test_a_closed_spec_leaves_no_warning(programs: Programs, backend: Backend, style: str) -> None:
    done = programs.run(
        SCRIPT
        + """
async def closing():
    async with spec:
        await use()

def closing_blocking():
    with blocking:
        use_blocking()

for style in sys.argv[1].split(" and "):
    closing_blocking() if style == "sync" else run(style, closing)
import gc
gc.collect()
say("over")
""",
        backend,
        style,
        flags=("-W", "error"),
    )
    assert (done.out, done.err, done.code) == ("over\n", "", 0)


@pytest.mark.parametrize("backend", ["servers"], indirect=True)
@pytest.mark.parametrize("style", STYLES)
def test_every_server_may_be_open_at_the_end(programs: Programs, backend: Backend, style: str) -> None:
    done = programs.run(SCRIPT + OPEN_TO_THE_END, backend, style)
    assert (done.out, done.err, done.code) == ("over\n", "", 0)
    assert done.seconds < 30


def test_a_daemon_thread_in_the_middle_of_a_call_does_not_keep_the_program(
    programs: Programs, backend: Backend
) -> None:
    done = programs.run(
        SCRIPT
        + """
def work():
    while True:
        use_blocking()

use_blocking()
for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
say("over")
""",
        backend,
    )
    assert (done.out, done.code) == ("over\n", 0)
    assert "Traceback" not in done.err, done.err


BUSY = {
    "writes": (
        "await users.create_many([User(f'user {n}', n) for n in range(200)])",
        "blocking_users.create_many([User(f'user {n}', n) for n in range(200)])",
    ),
    "searches": (
        "[found async for found in users.iter(page_size=3)]",
        "list(blocking_users.iter(page_size=3))",
    ),
    "blobs": (
        "await spec.blobs.put(bytes([len(number)]) * (8 << 20))",
        "blocking.blobs.put(bytes([len(number)]) * (8 << 20))",
    ),
    "acknowledged": (
        "say('stored', (await users.create(User('one by one'))).resource_id)",
        "say('stored', blocking_users.create(User('one by one')).resource_id)",
    ),
}
# Closing in a hurry does not take that long: `end` knows a program that hangs.
INTERRUPTED = """
spec._gate.close_timeout = 600

async def busy():
    async with spec:
        await use()
        say("busy")
        number = []
        while True:
            number.append(0)
            del number[200:]
            ASYNC

def busy_blocking():
    with blocking:
        use_blocking()
        say("busy")
        number = []
        while True:
            number.append(0)
            del number[200:]
            BLOCKING

busy_blocking() if sys.argv[1] == "sync" else run(sys.argv[1], busy)
"""
LOOK = """
with blocking:
    say(all(blocking_users.exists(item) for item in sys.argv[1:]), blocking_users.count() > 0)
    for found in blocking_users.iter(page_size=1000):
        assert found.data.name
    say(blocking_users.create(User("afterwards")).status)
"""


@pytest.mark.parametrize("work", BUSY)
@pytest.mark.parametrize("style", ["asyncio", "trio", "sync"])
def test_ctrl_c_in_the_middle_ends_the_program_and_keeps_the_data(
    programs: Programs, backend: Backend, style: str, work: str
) -> None:
    text = SCRIPT + INTERRUPTED.replace("ASYNC", BUSY[work][0]).replace("BLOCKING", BUSY[work][1])
    program = programs.start(text, backend, style)
    assert program.line() == "busy"
    time.sleep(0.4)
    program.signal(signal.SIGINT)
    done = program.end()
    assert done.code in {1, 130, -signal.SIGINT}, done.err
    assert done.err.rstrip().endswith("KeyboardInterrupt"), done.err
    assert "never retrieved" not in done.err
    assert "Exception ignored" not in done.err
    stored = [line.split()[1] for line in done.out.splitlines() if line.startswith("stored ") and len(line) > 40]
    look = programs.run(SCRIPT + LOOK, backend, *stored)
    assert (look.out, look.err) == ("True True\nstable\n", "")


@pytest.mark.parametrize("style", ["asyncio", "trio", "sync"])
def test_ctrl_c_while_the_server_does_not_answer(programs: Programs, private_postgres, style: str) -> None:  # type: ignore[no-untyped-def]
    patient = {"command_timeout_seconds": 600, "acquire_timeout_seconds": 600}
    postgres = {"type": "postgres", "options": {"dsn": private_postgres.endpoint.dsn, **patient}}
    backend = {"meta": postgres, "resource": postgres, "blob": {"type": "memory"}}
    text = SCRIPT + INTERRUPTED.replace("ASYNC", BUSY["writes"][0]).replace("BLOCKING", BUSY["writes"][1])
    program = programs.start(text, backend, style)
    assert program.line() == "busy"
    private_postgres.pause()
    try:
        time.sleep(0.5)
        program.signal(signal.SIGINT)
        done = program.end()
    finally:
        private_postgres.resume()
    assert "KeyboardInterrupt" in done.err
