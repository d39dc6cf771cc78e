"""Ctrl-C at every point of a call at which Python may raise it: the program gets it, and calls go on afterwards."""

from __future__ import annotations

import asyncio
import dis
import logging
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import pytest
import trio

from specstar.runtime import Batcher, Gate, crossing, gated, portable
from specstar.runtime import thread_home as thread_homes

# Where the interrupts come: our code, and what stands between it and the loop of a home.
_MODULES = ("specstar.", "asyncio.")


class Service:
    """A manager with a call of each kind."""

    def __init__(self, *, native: bool) -> None:
        self._gate = Gate()
        self._gate.native = native
        self._batcher: Batcher[int, int] | None = None
        self._generation = -1

    def _runs_anywhere(self) -> bool:
        return self._batcher is not None and self._generation == self._gate.generation

    async def _flush(self, items: list[int]) -> Sequence[int | Exception]:
        return [item * 10 for item in items]

    @portable
    async def batched(self, number: int) -> int:
        if self._batcher is None or self._generation != self._gate.generation:
            self._batcher = Batcher(self._gate.settle(), self._flush, name="test", writes=True)
            self._generation = self._gate.generation
        return await self._batcher.submit(number)

    @gated
    async def plain(self, number: int) -> int:
        return number * 10


def _looks_for_signals(frame: FrameType) -> bool:
    # The argument of RESUME: 0 at the start, 1 after a yield, 2 in a `yield from`, 3 in an await (Python's dis module).
    code, at = frame.f_code.co_code, frame.f_lasti
    return dis.opname[code[at]] == "RESUME" and code[at + 1] & 3 < 2


class Interrupt:
    """Sends SIGINT to the calling thread at its `point`-th chance. Python looks for signals where a Python function begins,
    where a generator goes on after a `yield`, and where a C function has returned; not where it goes on after an `await`.
    """

    def __init__(self, point: int) -> None:
        self.left = point

    def __enter__(self) -> Interrupt:
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_exc: object) -> None:
        sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, _argument: object) -> None:
        if not frame.f_globals.get("__name__", "").startswith(_MODULES):
            return
        if not (event == "c_return" or (event == "call" and _looks_for_signals(frame))):
            return
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def interrupts_as_usual() -> Iterator[None]:
    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(params=["batched", "plain"])
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


def every_point(once: Callable[[Interrupt], None]) -> int:
    """Run it with an interrupt at each point until there are no more; returns how many there were."""
    point = 0
    while True:
        point += 1
        interrupt = Interrupt(point)
        try:
            once(interrupt)
        except KeyboardInterrupt:
            continue
        assert interrupt.left > 0, f"the interrupt at point {point} is lost"
        return point - 1


@pytest.mark.parametrize("native", [True, False])
def test_on_trio(kind: str, native: bool, caplog: pytest.LogCaptureFixture) -> None:
    service = Service(native=native)

    async def main(interrupt: Interrupt) -> None:
        call: Callable[[int], Awaitable[int]] = getattr(service, kind)
        assert await call(1) == 10
        struck = False
        try:
            with interrupt:
                for number in range(2):
                    assert await call(number) == number * 10
        except KeyboardInterrupt:
            struck = True
        # A wake-up that comes late would strike here; the interrupt may come here too.
        for _ in range(3):
            try:
                await trio.sleep(0.0005)
            except KeyboardInterrupt:
                assert not struck
                struck = True
        with trio.fail_after(5):
            assert await call(3) == 30
        if struck:
            raise KeyboardInterrupt

    points = every_point(lambda interrupt: trio.run(main, interrupt))
    service._gate.close()
    assert points > 3
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# An interrupt between the making of a coroutine and its first step is no fault of ours.
@pytest.mark.filterwarnings("ignore:.*was never awaited", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_in_a_script(kind: str, loop: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    # Nobody looks by himself whether something has come.
    monkeypatch.setattr(crossing, "_LOOK_SECONDS", 60.0)
    monkeypatch.setattr(crossing, "_INTERRUPT_SECONDS", 60.0)
    if loop == "asyncio":
        monkeypatch.setattr(thread_homes, "_new_loop", asyncio.new_event_loop)
    service = Service(native=False)

    def call(number: int) -> int:
        bound: Any = getattr(service, kind)
        result: int = service._gate.call(lambda: bound(number), service if kind == "batched" else None)
        return result

    def once(interrupt: Interrupt) -> None:
        assert call(1) == 10
        since = time.monotonic()
        try:
            with interrupt:
                for number in range(2):
                    assert call(number) == number * 10
        finally:
            assert call(3) == 30
            assert time.monotonic() - since < 30, "the loop was not woken, or an outcome that had come was waited for"

    points = every_point(once)
    service._gate.close()
    assert points > 3
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
