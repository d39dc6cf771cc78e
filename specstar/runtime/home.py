"""The home: the one event loop on which a runtime's connections, batches and background tasks live."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from abc import ABC, abstractmethod
from asyncio import events
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    import trio

__all__ = ["AsyncioHome", "Home", "TrioHome", "Waiter", "in_trio"]

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
logger = logging.getLogger("specstar")


class Waiter(Protocol[T_contra]):
    """A result that one task awaits and another gives, both on the home loop."""

    def done(self) -> bool:
        """True once it has a result, an error, or its awaiter was cancelled."""

    def set_result(self, result: T_contra, /) -> None:
        """Wake the awaiter with a result."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Wake the awaiter with an error."""

    def __await__(self) -> Any: ...


class Home(ABC):
    """An event loop and the tasks that a runtime owns on it. All methods but `submit` and `alive` are called on the loop."""

    def __init__(self) -> None:
        self.closing = False

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
        """Cancel all owned tasks and wait for them, at most `timeout` seconds."""

    @abstractmethod
    def submit(self, function: Callable[[], Awaitable[T]], done: Callable[[Outcome[T]], None]) -> Callable[[], None]:
        """Run a coroutine function here, from any thread; `done` is called on this loop with its outcome.

        Returns a function that asks, from any thread, for its cancellation. Raises `RuntimeError` if the loop is gone.
        """


class TaskHandle(Protocol):
    """A background task."""

    def cancel(self) -> Any:
        """Ask the task to stop."""


class Outcome(Generic[T]):
    """How a coroutine ended: a value, or an error (a cancellation counts as one)."""

    __slots__ = ("cancelled", "error", "value")

    def __init__(self, value: T | None = None, error: BaseException | None = None, *, cancelled: bool = False) -> None:
        self.value = value
        self.error = error
        self.cancelled = cancelled

    def unwrap(self) -> T:
        """The value, or the error raised."""
        if self.error is not None:
            try:
                raise self.error
            finally:
                del self  # the traceback refers to this frame: drop the cycle
        return self.value  # type: ignore[return-value]


def _log_task_error(name: str, error: BaseException) -> None:
    logger.error("background task %s failed", name, exc_info=error)


class AsyncioHome(Home):
    """A home on an asyncio (or uvloop) event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.loop = loop
        self._tasks: set[asyncio.Task[Any]] = set()
        self._context = contextvars.Context()
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
            _log_task_error(task.get_name(), error)

    async def cancel_tasks(self, timeout: float) -> None:
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)

    def submit(self, function: Callable[[], Awaitable[T]], done: Callable[[Outcome[T]], None]) -> Callable[[], None]:
        task: asyncio.Task[None] | None = None
        cancelled = False

        async def run() -> None:
            try:
                outcome = Outcome(await function())
            except asyncio.CancelledError as error:
                outcome = Outcome(error=error, cancelled=True)
            except Exception as error:
                outcome = Outcome(error=error)
            done(outcome)

        context = _callers_context("asyncio")

        def start() -> None:
            nonlocal task
            task = self.loop.create_task(run(), context=context)
            self._tasks.add(task)
            task.add_done_callback(self._submitted_ended)
            if cancelled:
                task.cancel()

        def cancel() -> None:
            def on_loop() -> None:
                nonlocal cancelled
                cancelled = True
                if task is not None:
                    task.cancel()

            try:
                self.loop.call_soon_threadsafe(on_loop)
            except RuntimeError:
                return  # the loop is closed: nothing runs there any more

        self.loop.call_soon_threadsafe(start)
        return cancel

    def _submitted_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()


class _TrioWaiter:
    """A waiter for one trio task; cheaper than an event and a slot."""

    __slots__ = ("_outcome", "_task")

    def __init__(self) -> None:
        self._outcome: Outcome[Any] | None = None
        self._task: trio.lowlevel.Task | None = None

    def done(self) -> bool:
        return self._outcome is not None

    def set_result(self, result: Any, /) -> None:
        self._set(Outcome(result))

    def set_exception(self, exception: BaseException, /) -> None:
        self._set(Outcome(error=exception))

    def _set(self, outcome: Outcome[Any]) -> None:
        import trio

        self._outcome = outcome
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    def __await__(self) -> Any:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        import trio

        if self._outcome is None:
            self._task = trio.lowlevel.current_task()

            def abort(_raise_cancel: Any) -> trio.lowlevel.Abort:
                self._task = None
                self._outcome = Outcome(cancelled=True)
                return trio.lowlevel.Abort.SUCCEEDED

            await trio.lowlevel.wait_task_rescheduled(abort)
        outcome = self._outcome
        return outcome.unwrap() if outcome is not None else None


class _TrioTask:
    """A system task of a trio run with a cancel scope of its own."""

    def __init__(self, scope: trio.CancelScope, finished: trio.Event) -> None:
        self._scope = scope
        self.finished = finished

    def cancel(self) -> None:
        self._scope.cancel()


class TrioHome(Home):
    """A home on a trio run, for backends without asyncio drivers. Its tasks are system tasks: they end with the run."""

    def __init__(self) -> None:
        import trio

        super().__init__()
        self.token = trio.lowlevel.current_trio_token()
        self._tasks: set[_TrioTask] = set()
        self._over = False

    def is_current(self) -> bool:
        import trio

        try:
            return trio.lowlevel.current_trio_token() is self.token
        except RuntimeError:
            return False

    def alive(self) -> bool:
        import trio

        if self._over:
            return False
        try:
            self.token.run_sync_soon(_nothing)
        except trio.RunFinishedError:
            self._over = True
            return False
        return True

    def waiter(self) -> Waiter[Any]:
        return _TrioWaiter()

    def time(self) -> float:
        import trio

        return trio.current_time()

    def spawn(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> TaskHandle:
        import trio

        handle = _TrioTask(trio.CancelScope(), trio.Event())

        async def run() -> None:
            try:
                with handle._scope:
                    await function(*args)
            except Exception as error:
                _log_task_error(getattr(function, "__qualname__", "task"), error)
            finally:
                self._tasks.discard(handle)
                handle.finished.set()

        self._tasks.add(handle)
        trio.lowlevel.spawn_system_task(run, context=contextvars.Context())
        return handle

    async def cancel_tasks(self, timeout: float) -> None:
        import trio

        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        with trio.move_on_after(timeout):
            for task in tasks:
                await task.finished.wait()

    def submit(self, function: Callable[[], Awaitable[T]], done: Callable[[Outcome[T]], None]) -> Callable[[], None]:
        import trio

        scope = trio.CancelScope()
        context = _callers_context("trio")

        async def run() -> None:
            outcome: Outcome[T] = Outcome(cancelled=True, error=asyncio.CancelledError())
            try:
                with scope:
                    outcome = Outcome(await function())
            except Exception as error:
                outcome = Outcome(error=error)
            finally:
                done(outcome)

        def start() -> None:
            trio.lowlevel.spawn_system_task(run, context=context)

        def cancel() -> None:
            try:
                self.token.run_sync_soon(scope.cancel)
            except trio.RunFinishedError:
                return

        self.token.run_sync_soon(start)
        return cancel


def _callers_context(library: str) -> contextvars.Context:
    """The caller's context variables, but for the one by which sniffio (and so anyio) tells the event loop's library."""
    context = contextvars.copy_context()
    sniffio = sys.modules.get("sniffio")
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, library)
    return context


def _nothing() -> None:
    """What `run_sync_soon` runs to find out whether the run is over."""


def in_trio() -> bool:
    """True inside a trio run; does not import trio."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())
