"""Items sent to a batcher from other loops and threads, without a task on its loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest
import trio

from specstar.errors import BackendUnavailable, OutcomeUnknownError
from specstar.runtime import Batcher, Gate, portable
from specstar.runtime.home import AsyncioHome
from specstar.runtime.thread_home import ThreadHome


class Service:
    """A manager whose one method awaits a batcher, as the gate sees it."""

    def __init__(self) -> None:
        self._gate = Gate()
        self._gate.native = False
        self.portable = True
        self.batches: list[list[int]] = []
        self.released = threading.Event()
        self.released.set()
        self.flushing = threading.Event()
        self.ran_in: set[str] = set()
        self._batcher: Batcher[int, int] | None = None
        self._generation = -1

    def _runs_anywhere(self) -> bool:
        return self.portable and self._batcher is not None and self._generation == self._gate.generation

    def batcher(self) -> Batcher[int, int]:
        if self._batcher is None or self._generation != self._gate.generation:
            self._batcher = Batcher(self._gate.settle(), self._flush, name="test", writes=True)
            self._generation = self._gate.generation
        return self._batcher

    async def _flush(self, items: list[int]) -> Sequence[int | Exception]:
        self.batches.append(items)
        self.flushing.set()
        while not self.released.is_set():  # noqa: ASYNC110  set by another thread
            await asyncio.sleep(0.001)
        return [LookupError(item) if item < 0 else item * 10 for item in items]

    @portable
    async def ten_times(self, number: int) -> int:
        self.ran_in.add(threading.current_thread().name)
        return await self.batcher().submit(number)

    def call(self, number: int) -> int:
        return self._gate.call(lambda: self.ten_times(number), self)


def on_asyncio(main: Callable[[], Any]) -> None:
    asyncio.run(main())


def on_trio(main: Callable[[], Any]) -> None:
    trio.run(main)


@pytest.fixture
def service() -> Any:
    service = Service()
    # Its home is a thread of its own, whoever calls.
    assert service.call(1) == 10
    assert isinstance(service._gate.home, ThreadHome)
    service.ran_in.clear()
    yield service
    service.released.set()
    service._gate.close()


@pytest.mark.parametrize("run", [on_asyncio, on_trio])
def test_callers_on_another_loop_share_batches_and_each_has_its_own_answer(
    service: Service, run: Callable[[Any], None]
) -> None:
    service.batches.clear()
    results: dict[int, int] = {}

    async def call(number: int) -> None:
        results[number] = await service.ten_times(number)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for number in range(100):
                group.start_soon(call, number)
        with pytest.raises(LookupError):
            await service.ten_times(-1)

    run(main)
    assert results == {number: number * 10 for number in range(100)}
    assert len(service.batches) <= 10
    assert service.ran_in == {threading.current_thread().name}


def test_threads_block_where_they_call_and_share_batches(service: Service) -> None:
    service.batches.clear()
    with ThreadPoolExecutor(32, thread_name_prefix="caller") as pool:
        assert list(pool.map(service.call, range(500))) == [number * 10 for number in range(500)]
        with pytest.raises(LookupError):
            pool.submit(service.call, -1).result()
    assert len(service.batches) < 450
    assert all(name.startswith("caller") for name in service.ran_in)


@pytest.mark.parametrize("run", [on_asyncio, on_trio])
def test_cancelled_while_it_waits_an_item_is_taken_out_and_in_flight_it_goes_on(
    service: Service, run: Callable[[Any], None]
) -> None:
    service.batches.clear()

    async def main() -> None:
        service.released.clear()
        service.flushing.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(service.ten_times, 1)
            await anyio.sleep(0.05)
            assert service.flushing.is_set()
            group.start_soon(service.ten_times, 2)
            await anyio.sleep(0.05)
            group.cancel_scope.cancel()
        # Both callers are gone while the flush of the first goes on.
        assert not service.released.is_set()
        service.released.set()
        assert await service.ten_times(3) == 30

    run(main)
    assert service.batches == [[1], [3]]
    assert not service._gate.home.calls  # type: ignore[union-attr]


@pytest.mark.parametrize("run", [on_asyncio, on_trio])
def test_closing_ends_what_is_under_way_and_the_next_call_finds_a_new_home(
    service: Service, run: Callable[[Any], None]
) -> None:
    errors: list[BaseException] = []

    async def call(number: int) -> None:
        try:
            await service.ten_times(number)
        except Exception as error:
            errors.append(error)

    async def main() -> None:
        service.released.clear()
        service.flushing.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(call, 1)
            await anyio.sleep(0.05)
            group.start_soon(call, 2)
            await anyio.sleep(0.05)
            await service._gate.aclose()
        service.released.set()
        assert await service.ten_times(4) == 40
        await service._gate.aclose()

    run(main)
    # One was in flight, and may have been written; the other was not.
    assert sorted(type(error).__name__ for error in errors) == ["BackendUnavailable", "OutcomeUnknownError"]
    assert all(isinstance(error, (BackendUnavailable, OutcomeUnknownError)) for error in errors)


def test_a_call_for_a_home_that_is_gone_goes_to_the_next_one(service: Service) -> None:
    home = service._gate.home
    assert isinstance(home, ThreadHome)
    home.stop()
    # The gate still believes in it: the sending finds out.
    assert service._runs_anywhere()
    assert service.call(5) == 50
    assert service._gate.home is not home

    async def main() -> None:
        ended = service._gate.home
        assert isinstance(ended, ThreadHome)
        ended.stop()
        assert await service.ten_times(6) == 60

    trio.run(main)


def test_on_the_home_itself_nothing_is_sent() -> None:
    service = Service()

    async def main() -> None:
        assert await service.ten_times(1) == 10
        assert isinstance(service._gate.home, AsyncioHome)
        assert not service._gate.home.calls
        await service._gate.aclose()

    asyncio.run(main())


def test_a_portable_method_that_waits_for_a_loop_says_so_in_a_thread(service: Service) -> None:
    class Wrong(Service):
        @portable
        async def ten_times(self, number: int) -> int:
            await asyncio.sleep(0)
            return number

    wrong = Wrong()
    wrong._gate = service._gate
    wrong._batcher, wrong._generation = service._batcher, service._generation
    with pytest.raises(RuntimeError, match="suspended"):
        wrong.call(1)
