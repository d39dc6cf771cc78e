"""The threads of one lane: each does one job after the other, and the results come back through the home's mailbox.

A hop to such a thread and back costs half of one through a pool: no limiter, no ticket, no context, no idle workers to sort.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

import anyio

from specstar.errors import BackendUnavailable
from specstar.runtime import Home, Waiter

__all__ = ["LaneThreads"]

A = TypeVar("A")
T = TypeVar("T")


class _Job:
    """A call for a thread; its outcome is given to `waiter` on the home loop."""

    __slots__ = ("_argument", "_error", "_function", "_home", "_over", "_result", "_taken", "finished", "waiter")

    def __init__(self, home: Home, function: Callable[[Any], Any], argument: Any) -> None:
        self.waiter: Waiter[Any] = home.waiter()
        self.finished = False
        self._home = home
        self._function = function
        self._argument = argument
        # By the thread that does it, or by a caller who takes it back.
        self._taken = threading.Lock()
        self._over: anyio.Event | None = None
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do it, in the thread, unless its caller has taken it back."""
        if not self._taken.acquire(blocking=False):
            return
        try:
            self._result = self._function(self._argument)
        except BaseException as error:
            self._error = error
        with suppress(RuntimeError):  # the loop is gone
            self._home.mailbox.post(self._finish)

    def _finish(self) -> None:
        self.finished = True
        error, self._error = self._error, None
        if self._over is not None:
            self._over.set()
        if self.waiter.done():
            return
        if error is None:
            self.waiter.set_result(self._result)
        else:
            self.waiter.set_exception(error)

    async def give_up(self) -> None:
        """By a caller that was cancelled: take it back if it has not begun, else wait for its end."""
        if self._taken.acquire(blocking=False):
            return
        over = self._over = anyio.Event()
        # In a shielded scope anyio does not cancel again and again; `Task.cancel()` of asyncio does.
        with anyio.CancelScope(shield=True):
            while not over.is_set():
                with suppress(anyio.get_cancelled_exc_class()):
                    await over.wait()


class LaneThreads:
    """At most `most` threads, started when first needed. For one home loop; `end` is called in any thread."""

    def __init__(self, home: Home, name: str, most: int) -> None:
        self._home = home
        self._name = name
        self._most = most
        self._under_way = 0
        self._ended = False
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    async def run(self, function: Callable[[A], T], argument: A) -> T:
        """Call `function` in a thread; calls begin in their order.

        Cancelled, it raises only once the thread is done with it, or if it never began. Raises `BackendUnavailable` after
        `end`.
        """
        if self._ended:
            raise BackendUnavailable(f"{self._name}: closed")
        if self._under_way >= len(self._threads) < self._most:
            self._start()
        job = _Job(self._home, function, argument)
        self._under_way += 1
        self._jobs.put(job)
        try:
            result: T = await job.waiter
            return result
        except BaseException:
            if not job.finished:  # cancelled
                await job.give_up()
            raise
        finally:
            self._under_way -= 1

    def _start(self) -> None:
        # A daemon: whoever never closes must still be able to end the program. It keeps nothing alive but its queue.
        thread = threading.Thread(target=_serve, args=(self._jobs,), name=self._name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def end(self, timeout: float) -> None:
        """End the threads after the jobs that they have, and wait for each, `timeout` seconds at most."""
        self._ended = True
        threads, self._threads = self._threads, []
        for _ in threads:
            self._jobs.put(None)
        for thread in threads:
            thread.join(timeout)


def _serve(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        job.run()
        del job  # else its result lives until the next one
