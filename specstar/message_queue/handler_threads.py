"""Threads for plain handlers, which the end of the program does not wait for: a stuck handler must not outlast the drain."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from specstar.message_queue.job import Job
from specstar.runtime import Home
from specstar.runtime.crossing import home_of_caller
from specstar.runtime.home import Waiter, callers_context

__all__ = ["HandlerExitError", "HandlerThreads"]


class HandlerExitError(Exception):
    """Carries what is no `Exception` over from a thread or another loop: neither the loop nor the call ends by it."""


class _Thread(threading.Thread):
    """Runs what it is given, one after the other; None ends it."""

    def __init__(self) -> None:
        super().__init__(name="specstar-handler", daemon=True)
        self.work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def run(self) -> None:
        while (work := self.work.get()) is not None:
            work()
            del work  # it holds the job


class HandlerThreads:
    """The threads of one worker, made when needed and kept until `close`. Their number is bounded by its concurrency.

    A thread cannot be killed: when its attempt is over time or cancelled, it is left to itself and counts as `stuck`
    until it ends. The worker takes no more plain jobs while `stuck` has reached `limit`.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.stuck: int = 0
        self._home: Home | None = None
        self._idle: list[_Thread] = []
        self._closed = False

    @property
    def full(self) -> bool:
        """True while no more handlers may begin."""
        return self.stuck >= self.limit

    async def call(self, handler: Callable[[Job[Any]], Any], job: Job[Any]) -> Any:
        """Run the handler in a thread. Cancelling leaves the thread to itself. Always on the same event loop."""
        home = self._home
        if home is None:
            home = self._home = home_of_caller()
        thread = self._idle.pop() if self._idle else None
        if thread is None:
            thread = _Thread()
            thread.start()
        waiter = home.waiter()
        running, left = True, False

        def over(result: Any, error: BaseException | None) -> None:
            nonlocal running
            running = False
            self.stuck -= left
            self._idle.append(thread)
            if self._closed:
                self.close()
            _tell(waiter, result, error)

        context = callers_context(None)

        def work() -> None:
            result: Any = None
            error: BaseException | None = None
            try:
                result = context.run(handler, job)
            except StopIteration as raised:
                error = RuntimeError("the handler raised StopIteration")
                error.__cause__ = raised
            except Exception as raised:
                error = raised
            except BaseException as raised:
                # A child's KeyboardInterrupt, raised again by a process pool, ends neither the worker nor its loop.
                error = HandlerExitError(f"the handler raised {type(raised).__name__}")
                error.__cause__ = raised
            try:
                home.mailbox.post(lambda: over(result, error))
            except RuntimeError:
                thread.work.put(None)  # the loop is gone, and the worker with it
            if self._closed:
                thread.work.put(None)  # maybe the loop ends before it looks

        thread.work.put(work)
        try:
            result = await waiter
        except BaseException:
            if running:
                left = True
                self.stuck += 1
            raise
        return result

    def close(self) -> None:
        """End the threads: the idle ones now, the others when their handlers are over."""
        self._closed = True
        while self._idle:
            self._idle.pop().work.put(None)


def _tell(waiter: Waiter[Any], result: Any, error: BaseException | None) -> None:
    if waiter.done():
        if inspect.iscoroutine(result):
            result.close()  # nobody awaits it any more
        return
    if error is None:
        waiter.set_result(result)
    else:
        waiter.set_exception(error)
