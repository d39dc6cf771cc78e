"""From a caller's loop or thread to a home, and back with the outcome."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from asyncio import events
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from specstar.errors import BackendUnavailable, OutcomeUnknownError
from specstar.runtime.cleanup import wait_shielded
from specstar.runtime.home import AsyncioHome, Call, Home, Outcome
from specstar.runtime.interrupts import protect_in_trio, uninterrupted
from specstar.runtime.mailbox import Mailbox
from specstar.runtime.thread_home import ThreadHome, on_own_thread
from specstar.runtime.trio_home import TrioHome, in_trio

if TYPE_CHECKING:
    import trio

__all__ = [
    "NotStarted",
    "block_on",
    "choose_home",
    "cross_to",
    "deliver",
    "home_of_caller",
    "mailbox_of",
    "not_started",
    "post",
    "reach",
    "result_of",
]

R = TypeVar("R")
Submit: TypeAlias = Callable[[Callable[[Outcome[R]], None]], Call[R]]
logger: logging.Logger = logging.getLogger("specstar")
_LOOK_SECONDS = 1.0
_START_SECONDS = 30.0
_INTERRUPT_SECONDS = 2.0


class NotStarted(BackendUnavailable):
    """The home went away before the call began there: it may be sent again, to the next home."""


class _Here(threading.local):
    """What this thread uses again from call to call."""

    lock: Any = None
    loop: Any = None
    mailbox: Mailbox | None = None


_here = _Here()


def choose_home(*, native: bool, blocking: bool) -> Home:
    """The home for this caller: its own loop, if that is asyncio's, or trio's and `native`; else a thread of ours.

    `blocking`: the caller has no loop.
    """
    if not blocking:
        loop = events._get_running_loop()
        if loop is not None:
            if on_own_thread():
                raise BackendUnavailable("specstar is closing; call again")
            return AsyncioHome(loop)
        if native:
            return TrioHome()
    return ThreadHome.start()


def home_of_caller() -> Home:
    """The running loop as a home, for work that comes to it from another loop."""
    loop = events._get_running_loop()
    return TrioHome() if loop is None else AsyncioHome(loop)


async def cross_to(home: Home, function: Callable[[], Awaitable[R]]) -> R:
    """Run `function` on that loop and wait for it here. Cancelling cancels it there, and waits until it is over.

    Raises `NotStarted` or `OutcomeUnknownError` if that loop ends before the call does.
    """
    return await function() if home.is_current() else await reach(home, function)


async def reach(home: Home, function: Callable[[], Awaitable[R]]) -> R:
    """`cross_to` for a loop that is not the caller's."""
    return await deliver(home, functools.partial(home.submit, function))


def deliver(home: Home, submit: Submit[R]) -> Coroutine[Any, Any, R]:
    """Send a call to another loop by `submit` and wait for its outcome: on asyncio, on trio, or blocking the thread."""
    if events._get_running_loop() is not None:
        return _from_asyncio(home, submit)
    return _from_trio(home, submit) if in_trio() else _blocking(home, submit)


async def _blocking(home: Home, submit: Submit[R]) -> R:
    return _from_thread(home, submit)


async def _from_asyncio(home: Home, submit: Submit[R]) -> R:
    loop = asyncio.get_running_loop()
    mailbox = mailbox_of(loop, loop.call_soon_threadsafe)
    arrived: asyncio.Future[Outcome[R]] = loop.create_future()

    def done(outcome: Outcome[R]) -> None:
        def arrive() -> None:
            if not arrived.done():
                arrived.set_result(outcome)

        post(mailbox, arrive)

    call = _sent(submit, done)
    since = loop.time()
    timer: asyncio.TimerHandle | None = None

    def look() -> None:
        nonlocal timer
        _look_after(home, call, loop.time() - since)
        timer = loop.call_later(_LOOK_SECONDS, look)

    timer = loop.call_later(_LOOK_SECONDS, look)
    cancelled: asyncio.CancelledError | None = None
    try:
        outcome = await asyncio.shield(arrived)
    except asyncio.CancelledError as error:
        cancelled = error
        call.cancel()
        await wait_shielded(arrived)  # for the work over there to end
        outcome = arrived.result()
    finally:
        if timer is not None:
            timer.cancel()
    if cancelled is not None:
        if isinstance(outcome.error, Exception):
            logger.debug("a call that was cancelled failed: %r", outcome.error)
        raise cancelled
    return result_of(home, outcome)


@uninterrupted
async def _from_trio(home: Home, submit: Submit[R]) -> R:
    import outcome as outcomes
    import trio

    protect_in_trio()
    task = trio.lowlevel.current_task()
    token = trio.lowlevel.current_trio_token()
    mailbox = mailbox_of(token, token.run_sync_soon)
    raise_cancel: Callable[[], Any] | None = None

    def done(outcome: Outcome[R]) -> None:
        def arrive() -> None:
            if outcome.cancelled and raise_cancel is not None:
                trio.lowlevel.reschedule(task, outcomes.capture(raise_cancel))
            else:
                trio.lowlevel.reschedule(task, outcomes.Value(outcome))

        post(mailbox, arrive)

    def abort(raise_it: Callable[[], Any]) -> trio.lowlevel.Abort:
        nonlocal raise_cancel
        raise_cancel = raise_it
        call.cancel()
        return trio.lowlevel.Abort.FAILED  # wait until the work over there is truly over

    call = _sent(submit, done)
    # A loop of our own tells its callers when it ends, and nothing blocks it.
    watch = None if isinstance(home, ThreadHome) else _watch_in_trio(home, call)
    try:
        outcome: Outcome[R] = await trio.lowlevel.wait_task_rescheduled(abort)
    finally:
        if watch is not None:
            watch.cancel()
    return result_of(home, outcome)


def _watch_in_trio(home: Home, call: Call[Any]) -> trio.CancelScope:
    import trio

    scope = trio.CancelScope()

    async def watch() -> None:
        since = trio.current_time()
        with scope:
            while True:
                await trio.sleep(_LOOK_SECONDS)
                _look_after(home, call, trio.current_time() - since)

    trio.lowlevel.spawn_system_task(watch)
    return scope


def block_on(home: Home, function: Callable[[], Awaitable[R]]) -> R:
    """Run `function` on that loop and block this thread until it is over. Raises like `cross_to`.

    Ctrl-C takes the work back, and gives it two seconds to end.
    """
    return _from_thread(home, functools.partial(home.submit, function))


def _from_thread(home: Home, submit: Submit[R]) -> R:
    # One lock a thread, held while nothing has arrived.
    lock = _here.lock
    if lock is None:
        lock = threading.Lock()
        lock.acquire()
    else:
        _here.lock = None
    outcomes: list[Outcome[R]] = []

    def done(outcome: Outcome[R]) -> None:
        outcomes.append(outcome)
        lock.release()

    call = _sent(submit, done)
    try:
        if not lock.acquire(timeout=_LOOK_SECONDS):
            since = time.monotonic() - _LOOK_SECONDS
            while not lock.acquire(timeout=_LOOK_SECONDS):
                _look_after(home, call, time.monotonic() - since)
    except BaseException:
        # The lock stays with the call: its outcome may come late.
        if not outcomes:
            call.cancel()
            lock.acquire(timeout=_INTERRUPT_SECONDS)
        raise
    _here.lock = lock
    return result_of(home, outcomes[0])


def post(mailbox: Mailbox, arrive: Callable[[], None]) -> None:
    """Have `arrive` run on the caller's loop, if that is still there."""
    # Not `suppress`: this is on the way of every call.
    try:  # noqa: SIM105
        mailbox.post(arrive)
    except RuntimeError:
        pass  # the caller's loop is closed: nobody waits


def _sent(submit: Submit[R], done: Callable[[Outcome[R]], None]) -> Call[R]:
    try:
        return submit(done)
    except RuntimeError as error:
        raise not_started() from error


def not_started() -> NotStarted:
    """The error of a call that could not even be sent."""
    return NotStarted("the event loop of the connections is gone; call again")


def _look_after(home: Home, call: Call[Any], waited: float) -> None:
    """End a call that nothing will come of: its loop is gone, or does not even begin it."""
    if not home.alive():
        call.lose()
    elif waited > _START_SECONDS and not call.started and not call.cancelled:
        call.cancelled = True
        if call.finish(Outcome(error=_blocked_error(waited), started=False)):
            logger.warning("the event loop of the connections has not answered for %d s", waited)


def _blocked_error(waited: float) -> BackendUnavailable:
    return BackendUnavailable(
        f"the event loop of the connections did not begin the call within {waited:.0f} s: something blocks that loop "
        "(a blocking call in a coroutine, or a thread that it waits for)"
    )


def result_of(home: Home, outcome: Outcome[R]) -> R:
    """What the caller gets. Raises the error of the call, `NotStarted` or `OutcomeUnknownError`."""
    if not outcome.cancelled and not outcome.lost:
        return outcome.unwrap()
    if outcome.cancelled and home.closing and not home.ending:
        raise BackendUnavailable("the call was cancelled: specstar is closing")
    if not outcome.started:
        raise NotStarted("the event loop of the connections ended before the call began; call again")
    raise OutcomeUnknownError("the event loop of the connections ended while the call was under way")


def mailbox_of(loop: Any, wake: Callable[[Callable[[], None]], Any]) -> Mailbox:
    """The mailbox of the calling thread's loop."""
    here = _here
    mailbox = here.mailbox
    if mailbox is None or here.loop is not loop:
        here.loop = loop
        mailbox = here.mailbox = Mailbox(wake)
    return mailbox
