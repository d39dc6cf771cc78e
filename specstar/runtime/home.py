"""The home: the one event loop on which a runtime's connections, batches and background tasks live."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import sys
from abc import ABC, abstractmethod
from asyncio import events
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, Generic, Protocol, TypeVar

from specstar.runtime.counts import Batches
from specstar.runtime.mailbox import Mailbox

__all__ = ["AsyncioHome", "Call", "Home", "Outcome", "TaskHandle", "Waiter", "callers_context", "log_task_error"]

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
logger: logging.Logger = logging.getLogger("specstar")


class Waiter(Protocol[T_contra]):
    """A result that one task awaits and another gives, both on the home loop."""

    def done(self) -> bool:
        """True once it has a result, an error, or its awaiter was cancelled."""
        ...

    def set_result(self, result: T_contra, /) -> None:
        """Wake the awaiter with a result."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Wake the awaiter with an error."""

    def __await__(self) -> Any: ...


class TaskHandle(Protocol):
    """A background task."""

    def cancel(self) -> Any:
        """Ask the task to stop."""


class Outcome(Generic[T]):
    """How a call ended: a value, an error, `cancelled`, or `lost` with its loop. `started` is False if nothing of it ran."""

    __slots__ = ("cancelled", "error", "lost", "started", "value")

    def __init__(
        self,
        value: T | None = None,
        error: BaseException | None = None,
        *,
        cancelled: bool = False,
        lost: bool = False,
        started: bool = True,
    ) -> None:
        self.value: T | None = value
        self.error: BaseException | None = error
        self.cancelled: bool = cancelled
        self.lost: bool = lost
        self.started: bool = started

    def unwrap(self) -> T:
        """The value, or the error raised."""
        if self.error is not None:
            try:
                raise self.error
            finally:
                del self  # the traceback refers to this frame: drop the cycle
        return self.value  # type: ignore[return-value]


class Call(ABC, Generic[T]):
    """What another thread, or a caller on another loop, has sent to a home.

    `done` gets its outcome exactly once, on the home loop; if that is gone, in the thread that found out.
    """

    __slots__ = ("_calls", "_done", "_home", "_mailbox", "cancelled", "started")

    def __init__(self, home: Home, done: Callable[[Outcome[T]], None]) -> None:
        self._home = home
        self._calls = home.calls
        self._mailbox = home.mailbox
        self._done = done
        self.cancelled: bool = False
        self.started: bool = False

    def post(self) -> None:
        """Send it. Raises `RuntimeError` if the loop is gone."""
        self._calls.add(self)
        try:
            self._mailbox.post(self._start)
        except RuntimeError:
            self._calls.discard(self)
            raise

    def cancel(self) -> None:
        """Ask for its cancellation, from any thread; the outcome still comes."""
        self.cancelled = True
        try:
            self._mailbox.post(self.cancel_here)
        except RuntimeError:
            self.lose()

    def finish(self, outcome: Outcome[T]) -> bool:
        """Deliver the outcome; False if it has one already."""
        if not self._claim():
            return False
        self._done(outcome)
        return True

    def _claim(self) -> bool:
        """True for the first who ends the call."""
        try:
            self._calls.remove(self)
        except KeyError:
            return False
        return True

    def lose(self) -> bool:
        """Its loop is gone, or never took it up: nothing will come of it. From any thread; False if it has an outcome."""
        return self.finish(Outcome(lost=True, started=self.started))

    def _start(self) -> None:
        """On the home loop: begin, unless nobody waits any more."""
        if self.cancelled:
            self.finish(Outcome(cancelled=True, started=False))
        elif self._home.ending or self._home.over:
            self.lose()
        elif self in self._calls:  # else its caller has given up
            self._begin()

    @abstractmethod
    def _begin(self) -> None:
        """Begin, on the home loop."""

    @abstractmethod
    def cancel_here(self) -> None:
        """Cancel, on the home loop."""


class Home(ABC):
    """An event loop and the tasks that a runtime owns on it. All methods but `submit`, `is_current`, `alive` and
    `lose_calls` are called on the loop.

    `claimed`: someone closes it, and workers end first; `closing`: nothing new begins here; `ending`: because the loop
    itself ends; `over`: it takes nothing up any more. `batches` is what sends batches here.
    """

    library: str

    def __init__(self, mailbox: Mailbox) -> None:
        self.claimed = False
        self.closing = False
        self.ending = False
        self.over = False
        self.mailbox = mailbox
        self.calls: set[Call[Any]] = set()
        self.batches: Batches = Batches()

    @abstractmethod
    def is_current(self) -> bool:
        """True if the calling code runs on this loop."""

    @abstractmethod
    def alive(self) -> bool:
        """False once the loop is closed, or stands still with nobody to run it. Callable from any thread."""

    @abstractmethod
    def waiter(self) -> Waiter[Any]:
        """A new waiter."""

    @abstractmethod
    def time(self) -> float:
        """The loop's clock, in seconds."""

    @abstractmethod
    def spawn(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> TaskHandle:
        """Start a task that this home owns; it is cancelled and awaited by `cancel_tasks`. Its errors are logged."""

    @abstractmethod
    async def cancel_tasks(self, timeout: float) -> None:
        """Cancel all owned tasks and all calls, but not the one that asks, and wait for them, at most `timeout` seconds."""

    @abstractmethod
    def submit(self, function: Callable[[], Awaitable[T]], done: Callable[[Outcome[T]], None]) -> Call[T]:
        """Run a coroutine function here, from any thread, with the caller's context variables.

        `done` is called with its outcome, on this loop. Raises `RuntimeError` if the loop is gone.
        """

    @abstractmethod
    def at_end(self, function: Callable[[], Awaitable[None]]) -> None:
        """Have `function` run on the loop when it is about to end in good order (`asyncio.run`, `trio.run`)."""

    @abstractmethod
    def not_at_end(self) -> None:
        """Take `at_end` back. On the loop, or once it is gone."""

    def lose_calls(self) -> None:
        """The loop is gone: end all calls that wait for it. From any thread."""
        for call in list(self.calls):
            call.lose()


class AsyncioHome(Home):
    """A home on an asyncio (or uvloop) event loop."""

    library = "asyncio"

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(Mailbox(loop.call_soon_threadsafe))
        self.loop = loop
        self._tasks: set[asyncio.Task[Any]] = set()
        self._context = contextvars.Context()
        self._at_end: AsyncGenerator[None] | None = None
        # Bound once: these are on the hot path of every batched call.
        self.waiter = loop.create_future  # type: ignore[method-assign]
        self.time = loop.time  # type: ignore[method-assign]

    def is_current(self) -> bool:
        return events._get_running_loop() is self.loop

    def alive(self) -> bool:
        return not self.loop.is_closed() and self.loop.is_running()

    def waiter(self) -> Waiter[Any]:
        return self.loop.create_future()

    def time(self) -> float:
        return self.loop.time()

    def spawn(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> TaskHandle:
        # An empty context: the task serves many callers and must not carry one caller's variables.
        task = self.loop.create_task(function(*args), context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log_task_error(task.get_name(), error)

    async def cancel_tasks(self, timeout: float) -> None:
        # One turn: a task that is cancelled before its first step never runs, and could tell nobody.
        await asyncio.sleep(0)
        current = asyncio.current_task()
        calls = [call.task for call in list(self.calls) if isinstance(call, _AsyncioCall) and call.task is not None]
        tasks = [task for task in [*self._tasks, *calls] if task is not current and not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)

    def submit(self, function: Callable[[], Awaitable[T]], done: Callable[[Outcome[T]], None]) -> Call[T]:
        call = _AsyncioCall(self, function, done)
        call.post()
        return call

    def at_end(self, function: Callable[[], Awaitable[None]]) -> None:
        # The one thing that asyncio winds up in good order at the end of a loop is a generator that was begun on it.
        async def last() -> AsyncGenerator[None]:
            try:
                yield
            finally:
                if self._at_end is not None:
                    self._at_end = None
                    await function()

        self._at_end = last()
        with contextlib.suppress(StopIteration):
            self._at_end.__anext__().__await__().send(None)

    def not_at_end(self) -> None:
        generator, self._at_end = self._at_end, None
        if generator is not None:
            with contextlib.suppress(StopIteration, RuntimeError):  # it may be running already
                generator.aclose().__await__().send(None)


class _AsyncioCall(Call[T]):
    """A coroutine function, run as a task."""

    __slots__ = ("_context", "_function", "_loop", "task")

    def __init__(
        self, home: AsyncioHome, function: Callable[[], Awaitable[T]], done: Callable[[Outcome[T]], None]
    ) -> None:
        super().__init__(home, done)
        self._function = function
        self._context = callers_context(home.library)
        self._loop = home.loop
        self.task: asyncio.Task[None] | None = None

    def _begin(self) -> None:
        self.task = self._loop.create_task(self._run(), context=self._context)
        self.task.add_done_callback(self._ended)

    async def _run(self) -> None:
        self.started = True
        try:
            outcome = Outcome(await self._function())
        except asyncio.CancelledError:
            outcome = Outcome(cancelled=True)
        except GeneratorExit:
            raise  # the loop was closed under the task
        except BaseException as error:  # a SystemExit is for the caller, and must not end the loop
            # A loop that ends closes generators under a call that came late: its cancellation ends in an error of theirs.
            late = isinstance(error, RuntimeError) and isinstance(error.__context__, asyncio.CancelledError)
            outcome = Outcome(cancelled=True) if late and self._was_cancelled() else Outcome(error=error)
        self.finish(outcome)

    def _was_cancelled(self) -> bool:
        return self.task is not None and self.task.cancelling() > 0

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A task that was cancelled before its first step has told nobody."""
        if task.cancelled():
            self.finish(Outcome(cancelled=True, started=self.started))

    def cancel_here(self) -> None:
        if self.task is not None:
            self.task.cancel()
        else:
            self.finish(Outcome(cancelled=True, started=False))


def log_task_error(name: str, error: BaseException) -> None:
    """Log the error that ended a background task."""
    logger.error("background task %s failed", name, exc_info=error)


def callers_context(library: str | None) -> contextvars.Context:
    """The caller's context variables, but for the one by which sniffio (and so anyio) tells the event loop's library.

    None: for a thread without a loop.
    """
    context = contextvars.copy_context()
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, library)
    return context
