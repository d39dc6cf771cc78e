"""A home on a trio run."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from specstar.runtime.home import Call, Home, Outcome, TaskHandle, Waiter, callers_context, log_task_error
from specstar.runtime.interrupts import protect_in_trio, uninterrupted
from specstar.runtime.mailbox import Mailbox

if TYPE_CHECKING:
    import trio

__all__ = ["TrioHome", "in_trio"]

T = TypeVar("T")


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

    @uninterrupted
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
        self.task: trio.lowlevel.Task | None = None

    def cancel(self) -> None:
        self._scope.cancel()


class TrioHome(Home):
    """A home on a trio run, for backends without asyncio drivers. Its tasks are system tasks: they end with the run."""

    library = "trio"

    def __init__(self) -> None:
        import trio

        protect_in_trio()
        self.token: trio.lowlevel.TrioToken = trio.lowlevel.current_trio_token()
        super().__init__(Mailbox(self.token.run_sync_soon))
        self._tasks: set[_TrioTask] = set()
        self._over = False
        self._taken_back: trio.Event | None = None

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
            self.token.run_sync_soon(_nothing, idempotent=True)
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
            handle.task = trio.lowlevel.current_task()
            try:
                with handle._scope:
                    await function(*args)
            except Exception as error:
                log_task_error(getattr(function, "__qualname__", "task"), error)
            finally:
                self._tasks.discard(handle)
                handle.finished.set()

        self._tasks.add(handle)
        trio.lowlevel.spawn_system_task(run, context=contextvars.Context())
        return handle

    async def cancel_tasks(self, timeout: float) -> None:
        import trio

        current = trio.lowlevel.current_task()
        calls = [call for call in list(self.calls) if isinstance(call, _TrioCall) and call.task is not current]
        for call in calls:
            call.cancel_here()
        tasks = [task for task in self._tasks if task.task is not current]
        for task in tasks:
            task.cancel()
        with trio.move_on_after(timeout):
            for task in tasks:
                await task.finished.wait()
            for call in calls:
                await call.finished.wait()

    def submit(self, function: Callable[[], Awaitable[T]], done: Callable[[Outcome[T]], None]) -> Call[T]:
        call = _TrioCall(self, function, done)
        call.post()
        return call

    def at_end(self, function: Callable[[], Awaitable[None]]) -> None:
        import trio

        taken_back = self._taken_back = trio.Event()

        async def wait() -> None:
            # System tasks are cancelled when the main task has ended.
            try:
                await taken_back.wait()
            finally:
                if not taken_back.is_set():
                    with trio.CancelScope(shield=True):
                        try:
                            await function()
                        except Exception as error:
                            log_task_error("closing with the trio run", error)

        trio.lowlevel.spawn_system_task(wait, context=contextvars.Context())

    def not_at_end(self) -> None:
        if self._taken_back is not None and self.is_current():
            self._taken_back.set()


class _TrioCall(Call[T]):
    """A coroutine function, run as a system task."""

    __slots__ = ("_context", "_function", "_scope", "finished", "task")

    def __init__(
        self, home: TrioHome, function: Callable[[], Awaitable[T]], done: Callable[[Outcome[T]], None]
    ) -> None:
        import trio

        super().__init__(home, done)
        self._function = function
        self._context = callers_context(home.library)
        self._scope = trio.CancelScope()
        self.finished = trio.Event()
        self.task: trio.lowlevel.Task | None = None

    def _begin(self) -> None:
        import trio

        try:
            self.task = trio.lowlevel.spawn_system_task(self._run, context=self._context)
        except RuntimeError:
            self.lose()  # the run is ending and takes no more tasks

    async def _run(self) -> None:
        import trio

        self.started = True
        outcome: Outcome[T] = Outcome(cancelled=True)
        try:
            with self._scope:
                outcome = Outcome(await self._function())
        except trio.Cancelled:
            raise  # the run ends
        except BaseException as error:  # a SystemExit is for the caller, and must not end the run
            outcome = Outcome(error=error)
        finally:
            self.finish(outcome)
            self.finished.set()

    def cancel_here(self) -> None:
        if self.task is None:
            self.finish(Outcome(cancelled=True, started=False))
            self.finished.set()
        else:
            self._scope.cancel()


def _nothing() -> None:
    """What `run_sync_soon` runs to find out whether the run is over."""


def in_trio() -> bool:
    """True inside a trio run; does not import trio."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())
