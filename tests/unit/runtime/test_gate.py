from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import anyio
import pytest
import trio

from specstar.errors import BackendUnavailable, OutcomeUnknownError, UsageError
from specstar.runtime import Connection, Gate, LazyConnection, ServerInfo, gated
from specstar.runtime.home import AsyncioHome
from specstar.runtime.thread_home import ThreadHome
from specstar.runtime.trio_home import TrioHome


class Service:
    """A manager as the gate sees one."""

    def __init__(self, *, native: bool) -> None:
        self._gate = Gate()
        self._gate.native = native
        self.events: list[str] = []

    @gated
    async def where(self) -> tuple[int, int]:
        return threading.get_ident(), id(self._gate.home)

    @gated
    async def double(self, number: int) -> int:
        await anyio.sleep(0)
        return number * 2

    @gated
    async def fail(self) -> None:
        raise LookupError("not here")

    @gated
    async def wait(self) -> None:
        try:
            await anyio.sleep(30)
        except BaseException:
            self.events.append("cancelled")
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.05)
            self.events.append("over")
            raise


def test_on_asyncio_the_callers_loop_is_the_home_and_nothing_is_started() -> None:
    service = Service(native=False)

    async def main() -> None:
        before = threading.active_count()
        assert (await service.where())[0] == threading.get_ident()
        assert isinstance(service._gate.home, AsyncioHome)
        assert threading.active_count() == before

    asyncio.run(main())


def test_a_native_gate_runs_on_trio_itself() -> None:
    service = Service(native=True)

    async def main() -> None:
        assert (await service.where())[0] == threading.get_ident()
        assert isinstance(service._gate.home, TrioHome)
        assert await service.double(4) == 8

    trio.run(main)


def test_on_trio_asyncio_backends_live_in_a_thread_of_their_own() -> None:
    service = Service(native=False)

    async def main() -> None:
        assert (await service.where())[0] != threading.get_ident()
        assert isinstance(service._gate.home, ThreadHome)
        assert await service.double(4) == 8
        with pytest.raises(LookupError, match="not here"):
            await service.fail()
        await service._gate.aclose()

    trio.run(main)


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_cancelling_a_crossing_call_waits_until_the_work_is_over(library: str) -> None:
    service = Service(native=False)
    service._gate.home = ThreadHome.start()

    async def main() -> None:
        started = time.perf_counter()
        with anyio.move_on_after(0.1) as scope:
            await service.wait()
        assert scope.cancelled_caught
        assert service.events == ["cancelled", "over"]
        assert time.perf_counter() - started < 5
        assert await service.double(2) == 4

    anyio.run(main, backend=library)
    service._gate.close()


def test_a_second_run_of_asyncio_gets_a_new_home() -> None:
    service = Service(native=False)
    for _ in range(3):
        assert asyncio.run(service.double(5)) == 10
    assert service._gate.generation == 3
    assert service._gate.home is None


def test_calls_from_another_live_loop_cross_to_the_home() -> None:
    service = Service(native=False)

    async def main() -> None:
        mine, _ = await service.where()

        async def other() -> tuple[int, int]:
            assert await service.double(1) == 2
            return await service.where()

        there, _ = await anyio.to_thread.run_sync(lambda: asyncio.run(other()))
        assert there == mine

    asyncio.run(main())


def test_a_trio_home_serves_asyncio_and_plain_threads() -> None:
    service = Service(native=True)

    async def main() -> None:
        await service.where()
        assert await trio.to_thread.run_sync(lambda: asyncio.run(service.double(3))) == 6
        assert await trio.to_thread.run_sync(lambda: service._gate.call(lambda: service.double(4))) == 8

    trio.run(main)


def test_plain_threads_share_one_home() -> None:
    service = Service(native=True)
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda n: service._gate.call(lambda: service.double(n)), range(200)))
    assert results == [n * 2 for n in range(200)]
    homes = service._gate.call(service.where)
    assert homes[0] != threading.get_ident()
    service._gate.close()
    assert service._gate.home is None


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_blocking_inside_a_running_loop_is_refused_with_advice(library: str) -> None:
    service = Service(native=True)

    async def main() -> None:
        with pytest.raises(UsageError, match=f"running {library} event loop.*await"):
            service._gate.call(lambda: service.double(1))

    anyio.run(main, backend=library)


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_context_variables_of_the_caller_are_seen_on_the_home(library: str) -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")
    gate = Gate()
    gate.home = ThreadHome.start()

    async def read() -> str:
        return user.get()

    async def main() -> None:
        user.set("alice")
        assert await gate.run(read) == "alice"

    anyio.run(main, backend=library)
    user.set("bob")
    assert gate.call(read) == "bob"
    gate.close()


def test_closing_while_calls_are_in_flight_ends_them_with_an_error() -> None:
    service = Service(native=False)
    service._gate.close_timeout = 0.2
    errors: list[BaseException] = []

    def call() -> None:
        try:
            service._gate.call(service.wait)
        except BackendUnavailable as error:
            errors.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    time.sleep(0.1)
    service._gate.close()
    thread.join(5)
    assert not thread.is_alive()
    assert len(errors) == 1


class Pool(Connection):
    """A connection that tells what happens to it."""

    def __init__(self, log: list[str], *, fail: int = 0) -> None:
        self.log = log
        self.fail = fail

    async def open(self) -> None:
        await anyio.sleep(0.01)
        self.log.append("open")

    async def ping(self) -> ServerInfo:
        return ServerInfo(version="1")

    async def aclose(self) -> None:
        self.log.append("close")

    def abandon(self) -> None:
        self.log.append(f"abandon in {os.getpid()}")


@pytest.mark.anyio
async def test_a_connection_opens_once_whoever_races_and_closes_in_reverse_order() -> None:
    log: list[str] = []
    gate = Gate()
    first = gate.connections.share("a", lambda: Pool(log), "a")
    assert gate.connections.share("a", lambda: Pool(log), "a") is first
    opened: list[Pool] = []

    async def get() -> None:
        opened.append(await first.get())

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(get)
    assert log == ["open"]
    assert len({id(pool) for pool in opened}) == 1
    order: list[str] = []

    class Named(Pool):
        def __init__(self, name: str) -> None:
            super().__init__([])
            self.name = name

        async def aclose(self) -> None:
            order.append(self.name)

    for name in ("x", "y"):
        await gate.connections.share(name, lambda name=name: Named(name), name).get()  # type: ignore[misc]
    await gate.connections.aclose(1)
    assert order == ["y", "x"]
    assert log == ["open", "close"]


@pytest.mark.anyio
async def test_a_failed_opening_is_tried_again_by_the_next_call() -> None:
    attempts = 0

    class Flaky(Pool):
        async def open(self) -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                raise BackendUnavailable("down")

    lazy: LazyConnection[Flaky] = LazyConnection(lambda: Flaky([]), "flaky")
    with pytest.raises(BackendUnavailable, match="down"):
        await lazy.get()
    assert await lazy.get() is lazy.opened


@pytest.mark.anyio
async def test_a_connection_that_does_not_close_is_dropped_in_time() -> None:
    log: list[str] = []

    class Stuck(Pool):
        async def aclose(self) -> None:
            await anyio.sleep(60)

    lazy: LazyConnection[Stuck] = LazyConnection(lambda: Stuck(log), "stuck")
    await lazy.get()
    started = time.perf_counter()
    await lazy.aclose(0.05)
    assert time.perf_counter() - started < 5
    assert log == ["open", f"abandon in {os.getpid()}"]


def test_a_forked_child_drops_its_parents_connections_and_the_parent_keeps_them() -> None:
    log: list[str] = []
    gate = Gate()
    gate.call(gate.connections.share("pool", lambda: Pool(log), "pool").get)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = f"{gate.home is None} {not gate.connections.opened()} {log[-1] == f'abandon in {os.getpid()}'}"
            os.write(write, answer.encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"True True True"
    assert log == ["open"]
    assert gate.connections.opened()
    gate.close()
    assert log == ["open", "close"]


def test_an_unclosed_gate_warns_when_it_is_dropped() -> None:
    gate = Gate()
    gate.call(gate.connections.share("pool", lambda: Pool([]), "pool").get)
    with pytest.warns(ResourceWarning, match="not closed .open: pool."):
        gate.end()


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_connections_left_open_are_closed_with_the_loop_and_the_program_is_told_once(library: str) -> None:
    log: list[str] = []
    service = Service(native=True)

    class Memory(Pool):
        portable = True

    async def main() -> None:
        await service.double(1)
        await service._gate.connections.share("pool", lambda: Pool(log), "pool").get()
        await service._gate.connections.share("memory", lambda: Memory([]), "memory").get()

    for _ in range(2):
        anyio.run(main, backend=library)
    assert log == ["open", "close", "open", "close"]
    with pytest.warns(ResourceWarning, match="not closed .open: pool."):
        service._gate.end()


def test_a_call_that_never_began_goes_to_the_next_home() -> None:
    service = Service(native=False)
    first = service._gate.home = ThreadHome.start()
    started, release = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        release.wait()

    first.loop.call_soon_threadsafe(hold)
    started.wait()
    results: list[int] = []
    caller = threading.Thread(target=lambda: results.append(service._gate.call(lambda: service.double(21))))
    caller.start()
    while not first.calls:
        time.sleep(0.001)
    stopper = threading.Thread(target=service._gate._gone, args=(first,))
    stopper.start()
    first.lose_calls()
    release.set()
    caller.join(10)
    stopper.join(10)
    assert results == [42]
    assert service._gate.home is not first
    service._gate.close()


def test_a_call_that_is_cut_off_with_its_loop_says_that_its_outcome_is_unknown() -> None:
    service = Service(native=False)
    ready = threading.Event()

    async def short() -> None:
        await service.double(1)
        ready.set()
        await asyncio.sleep(0.1)

    loop = threading.Thread(target=asyncio.run, args=(short(),))
    loop.start()
    ready.wait()
    with pytest.raises(OutcomeUnknownError, match="ended while the call was under way"):
        service._gate.call(service.wait)
    loop.join()
    assert service._gate.call(lambda: service.double(2)) == 4
    service._gate.close()


def test_a_blocked_home_is_named_instead_of_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specstar.runtime.crossing._START_SECONDS", 0.5)
    monkeypatch.setattr("specstar.runtime.crossing._LOOK_SECONDS", 0.1)
    service = Service(native=False)
    ran: list[int] = []

    async def note() -> None:
        ran.append(1)

    async def main() -> None:
        await service.double(1)
        errors: list[BaseException] = []

        def call() -> None:
            try:
                service._gate.call(note)
            except BackendUnavailable as error:
                errors.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join(10)  # what no program should do: the thread waits for this very loop
        assert "something blocks that loop" in str(errors[0])
        await asyncio.sleep(0.05)
        assert not ran
        await service._gate.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_closers_that_race_close_once_and_calls_afterwards_open_again(library: str) -> None:
    log: list[str] = []
    service = Service(native=True)

    class Slow(Pool):
        async def aclose(self) -> None:
            await anyio.sleep(0.05)
            self.log.append("close")

    async def main() -> None:
        await service.double(1)
        await service._gate.connections.share("pool", lambda: Slow(log), "pool").get()
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(service._gate.aclose)
            await anyio.to_thread.run_sync(service._gate.close)
        assert log == ["open", "close"]
        assert await service.double(2) == 4
        await service._gate.aclose()

    anyio.run(main, backend=library)


def test_closing_that_is_cancelled_drops_the_rest_and_leaves_the_gate_usable() -> None:
    log: list[str] = []
    service = Service(native=False)

    class Stuck(Pool):
        async def aclose(self) -> None:
            await asyncio.sleep(60)

    async def main() -> None:
        await service.double(1)
        for name in "ab":
            await service._gate.connections.share(name, lambda: Stuck(log), name).get()
        closing = asyncio.create_task(service._gate.aclose())
        await asyncio.sleep(0.05)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert len([line for line in log if line.startswith("abandon")]) == 2
        assert await service.double(2) == 4

    asyncio.run(main())


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_closing_in_a_scope_that_is_cancelled_ends_the_background_tasks(library: str) -> None:
    service = Service(native=True)
    ended: list[str] = []

    async def background() -> None:
        try:
            await anyio.sleep(60)
        finally:
            ended.append("task")

    async def end() -> None:
        await anyio.sleep(60)

    async def main() -> None:
        await service.double(1)
        home = service._gate.home
        assert home is not None
        home.spawn(background)
        service._gate.sendings["some"] = end
        await anyio.sleep(0.01)
        with anyio.move_on_after(0.02) as scope:
            await service._gate.aclose()
        assert scope.cancelled_caught
        assert ended == ["task"]
        assert await service.double(2) == 4
        await service._gate.aclose()

    anyio.run(main, backend=library)


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_closing_from_elsewhere_that_is_cancelled_before_it_begins_leaves_the_rest_to_the_next(library: str) -> None:
    log: list[str] = []
    service = Service(native=False)

    async def main() -> None:
        await service._gate.connections.share("pool", lambda: Pool(log), "pool").get()
        home = service._gate.home
        assert home is not None
        home.mailbox.post(lambda: time.sleep(0.3))  # it takes nothing up meanwhile
        with anyio.CancelScope() as scope:
            scope.cancel()
            await service._gate.aclose()
        assert log == ["open"]
        with anyio.fail_after(10):
            await service._gate.aclose()
        assert log == ["open", "close"]

    threads = ThreadPoolExecutor(1)
    service._gate.settle(blocking=True)  # a loop of its own
    threads.submit(lambda: anyio.run(main, backend=library)).result(20)
    threads.shutdown()


@pytest.mark.parametrize("stage", ["not begun", "under way"])
@pytest.mark.parametrize("closer", ["a thread", "another loop"])
def test_closing_from_elsewhere_a_loop_that_ends_meanwhile_closes_all_the_same(closer: str, stage: str) -> None:
    log: list[str] = []
    service = Service(native=False)
    begun = threading.Event()

    class Stuck(Pool):
        async def aclose(self) -> None:
            begun.set()
            await asyncio.sleep(60)

    def close() -> None:
        if closer == "a thread":
            service._gate.close()
        else:
            asyncio.run(service._gate.aclose())

    async def main() -> None:
        await service.double(1)
        await service._gate.connections.share("pool", lambda: Stuck(log), "pool").get()
        closing.append(threads.submit(close))
        if stage == "under way":
            await asyncio.to_thread(begun.wait, 10)
        else:
            home = service._gate.home
            assert home is not None
            while not home.calls:
                time.sleep(0.001)  # noqa: ASYNC251  the loop must not take it up

    closing: list[Future[None]] = []
    with ThreadPoolExecutor(1) as threads:
        asyncio.run(main())
        closing[0].result(10)
    assert log[0] == "open"
    assert log[1].startswith("abandon")
    assert len(log) == 2
    assert service._gate.home is None
    assert service._gate.call(lambda: service.double(2)) == 4
    service._gate.close()


def test_a_call_that_exits_the_program_raises_in_its_caller_and_not_in_the_loop() -> None:
    gate = Gate()

    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        gate.call(leave)
    assert gate.home is not None
    assert gate.home.alive()
    gate.close()


def test_a_thread_that_cannot_start_leaves_the_gate_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(native=False)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="start new thread"):
            service._gate.call(lambda: service.double(1))
    assert service._gate.call(lambda: service.double(1)) == 2
    service._gate.close()


@pytest.mark.parametrize("how", ["stopped", "closed"])
def test_a_closing_whose_loop_ended_in_the_middle_keeps_nobody_waiting(how: str) -> None:
    log: list[str] = []
    service = Service(native=False)

    class Slow(Pool):
        async def aclose(self) -> None:
            await asyncio.sleep(60)

    closing: list[asyncio.Task[None]] = []

    async def first() -> None:
        await service._gate.connections.share("pool", lambda: Slow(log), "pool").get()
        await service.double(1)
        closing.append(asyncio.get_running_loop().create_task(service._gate.aclose()))
        await asyncio.sleep(0.01)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(first())
    if how == "closed":
        loop.close()
    asyncio.run(asyncio.wait_for(service._gate.aclose(), 10))
    assert service._gate.home is None
    assert asyncio.run(service.double(2)) == 4
    if how == "stopped":
        closing[0].cancel()
        loop.run_until_complete(asyncio.wait(closing))
        loop.close()


@pytest.mark.parametrize("library", ["asyncio", "trio"])
def test_refusing_twice_keeps_what_is_open_to_be_closed(library: str) -> None:
    log: list[str] = []
    service = Service(native=True)

    async def main() -> None:
        gate = service._gate
        await service.double(1)
        await gate.connections.share("pool", lambda: Pool(log), "pool").get()
        gate.refuse("not awaited")
        gate.refuse("not awaited")
        with pytest.raises(UsageError, match="not awaited"):
            await service.double(2)
        gate.admit()
        await gate.aclose()
        assert log == ["open", "close"]

    anyio.run(main, backend=library)


async def test_a_configuration_over_closed_connections_ends_a_refusal() -> None:
    service = Service(native=True)
    await service.double(1)
    service._gate.refuse("not awaited")
    await service._gate.aclose()
    service._gate.renew(native=True)
    assert await service.double(2) == 4
    await service._gate.aclose()


async def test_a_second_closer_of_what_is_refused_waits_for_the_first() -> None:
    log: list[str] = []
    service = Service(native=True)

    class Slow(Pool):
        async def aclose(self) -> None:
            await anyio.sleep(0.1)
            self.log.append("close")

    await service.double(1)
    await service._gate.connections.share("pool", lambda: Slow(log), "pool").get()
    service._gate.refuse("not awaited")

    async def close() -> None:
        await service._gate.aclose()
        assert log == ["open", "close"]

    async with anyio.create_task_group() as group:
        group.start_soon(close)
        group.start_soon(close)


async def test_what_is_being_opened_when_a_configuration_comes_is_dropped() -> None:
    log: list[str] = []
    service = Service(native=True)
    opening, go_on = anyio.Event(), anyio.Event()

    class Slow(Pool):
        async def open(self) -> None:
            opening.set()
            await go_on.wait()
            self.log.append("open")

    await service.double(1)
    lazy = service._gate.connections.share("pool", lambda: Slow(log), "pool")

    async def first() -> None:
        with pytest.raises(BackendUnavailable):
            await lazy.get()

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await opening.wait()
        service._gate.renew(native=True)
        go_on.set()
    assert log[0] == "open"
    assert log[1].startswith("abandon")
    await service._gate.aclose()
