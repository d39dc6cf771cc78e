"""One attempt at a job: calling the handler inside its time limit, and what comes of it."""

from __future__ import annotations

import asyncio
import enum
import math
import threading
import time
from asyncio import events
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import anyio
from msgspec import Raw

from specstar.errors import DecodeError
from specstar.message_queue.codec import JobCodec, ResultError, failure_text
from specstar.message_queue.invoke import HandlerExitError, Invoke
from specstar.message_queue.job import DelayRetry, JobRecord, NoRetry
from specstar.message_queue.retry import MAX_DELAY_SECONDS
from specstar.message_queue.state import Snapshot
from specstar.roles import Delivery

__all__ = ["Attempt", "Failed", "Interrupted", "Stopped", "Succeeded"]

_TURNS_TO_THE_END = 4


class Stopped(enum.Enum):
    """Why a run was cancelled from outside its handler."""

    cancelled = enum.auto()
    """Someone cancelled the job."""
    shutdown = enum.auto()
    """The worker ends: the job goes back."""
    lost = enum.auto()
    """The delivery was lost with its connection: another worker runs the job."""


class Succeeded:
    """The handler returned."""

    __slots__ = ("result",)

    def __init__(self, result: Raw) -> None:
        self.result: Raw = result


class Failed:
    """The handler raised, or ran out of time. `delay` in seconds is its own wish for the retry."""

    __slots__ = ("delay", "final", "text", "traceback")

    def __init__(self, text: str, traceback: str | None, *, final: bool = False, delay: float | None = None) -> None:
        self.text: str = text
        self.traceback: str | None = traceback
        self.final: bool = final
        self.delay: float | None = delay


class Interrupted:
    """The handler was cancelled from outside."""

    __slots__ = ("reason",)

    def __init__(self, reason: Stopped) -> None:
        self.reason: Stopped = reason


class Attempt:
    """A job in the hands of this worker. `snapshot` is None where no state is kept, `due` where it is not known."""

    __slots__ = ("began", "delivery", "due", "over", "reason", "record", "scope", "snapshot")

    def __init__(
        self, record: JobRecord, snapshot: Snapshot | None, delivery: Delivery, due: datetime | None = None
    ) -> None:
        self.record: JobRecord = record
        self.snapshot: Snapshot | None = snapshot
        self.delivery: Delivery = delivery
        self.due: datetime | None = due
        self.began: float = time.monotonic()
        self.reason: Stopped | None = None
        self.scope: anyio.CancelScope | None = None
        self.over: bool = False

    def stop(self, reason: Stopped) -> bool:
        """Cancel the handler. The first reason counts: False if it is another, or if the handler is over already."""
        if self.reason is None and not self.over:
            self.reason = reason
            if self.scope is not None:
                self.scope.cancel()
        return self.reason is reason

    async def run(
        self, invoke: Invoke, codec: JobCodec[Any], timeout: float | None, new_scope: Callable[..., anyio.CancelScope]
    ) -> Succeeded | Failed | Interrupted:
        """Call the handler. Never raises but for a cancellation of the worker itself, Ctrl-C, or the end of the loop."""
        if self.reason is not None:  # told before it began
            self.over = True
            return Interrupted(self.reason)
        try:
            job = codec.job(self.record)
        except DecodeError as error:
            self.over = True
            return Failed(f"DecodeError: {error}", None, final=True)
        deadline = math.inf if timeout is None else anyio.current_time() + timeout
        self.scope = scope = new_scope(deadline=deadline)
        outcome: Succeeded | Failed | None = None
        task = _asyncio_task()
        before = 0 if task is None else task.cancelling()
        try:
            with scope:
                outcome = await self._call(invoke, job, codec)
        except BaseException as error:
            if _has(error, GeneratorExit):
                raise
            # Ctrl-C strikes in the main thread; elsewhere it is a child's, raised again by a process pool.
            if _has(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise
            if _has(error, anyio.get_cancelled_exc_class()) and await _is_cancelled(task, before):
                raise  # the worker itself is cancelled
            outcome = Failed(*failure_text(error))
        finally:
            self.scope = None
        if task is not None and task.cancelling() > before and anyio.current_effective_deadline() != -math.inf:
            _take_back(task, before)  # the handler cancelled its own task, and swallowed that
        self.over = True
        # A handler that answers a cancellation with an error was cancelled all the same. One that ended well in spite of it
        # has done the work: that counts, unless the one who cancelled the job was told so.
        if self.reason is Stopped.cancelled or (self.reason is not None and not isinstance(outcome, Succeeded)):
            return Interrupted(self.reason)
        if outcome is not None:
            return outcome
        return Failed(f"TimeoutError: the handler did not end within its timeout of {timeout:g} s", None)

    @staticmethod
    async def _call(invoke: Invoke, job: Any, codec: JobCodec[Any]) -> Succeeded | Failed:
        try:
            return Succeeded(codec.encode_result(await invoke(job)))
        except NoRetry as error:
            return Failed(*failure_text(error), final=True)
        except DelayRetry as error:
            return Failed(*failure_text(error), delay=_wished_delay(error))
        except HandlerExitError as error:
            return Failed(*failure_text(error.__cause__ or error))
        except ResultError as error:
            # The work is done; doing it again would end the same way.
            return Failed(str(error), None, final=True)
        except (Exception, SystemExit) as error:
            return Failed(*failure_text(error))


def _wished_delay(error: DelayRetry) -> float | None:
    """Seconds; None if a subclass has not set them, or to what is no number."""
    seconds: Any = getattr(error, "seconds", None)
    if isinstance(seconds, timedelta):
        seconds = seconds.total_seconds()
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or math.isnan(seconds):
        return None
    return float(min(max(seconds, 0), MAX_DELAY_SECONDS))


def _has(error: BaseException, kinds: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
    """True for one of these, also somewhere in a group."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(kinds)[0] is not None
    return isinstance(error, kinds)


def _asyncio_task() -> asyncio.Task[Any] | None:
    return None if events._get_running_loop() is None else asyncio.current_task()


async def _is_cancelled(task: asyncio.Task[Any] | None, before: int) -> bool:
    """True if the worker is cancelled, from whose task a handler runs; False if the handler cancelled that by itself."""
    if anyio.current_effective_deadline() == -math.inf:
        return True
    if task is None or task.cancelling() <= before:
        return False
    # At the end of a loop all tasks are cancelled by hand, this one maybe before the one that holds its scope.
    _take_back(task, before)
    for _ in range(_TURNS_TO_THE_END):
        await asyncio.sleep(0)
    return anyio.current_effective_deadline() == -math.inf


def _take_back(task: asyncio.Task[Any], before: int) -> None:
    while task.cancelling() > before:
        task.uncancel()
