"""An item for a batcher, sent from trio to a home in a thread of its own: one object for both ways."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import outcome as outcomes
import trio
from trio.lowlevel import Abort, Task, current_task, current_trio_token, reschedule, wait_task_rescheduled

from specstar.runtime.crossing import not_started, result_of
from specstar.runtime.home import Home, Outcome
from specstar.runtime.mailbox import Mailbox
from specstar.runtime.sending import Sending

__all__ = ["send_from_trio"]


class _Here(threading.local):
    """The way back into the trio run of this thread."""

    token: trio.lowlevel.TrioToken | None = None
    mailbox: Mailbox


_here = _Here()


async def send_from_trio(home: Home, put: Callable[[Any, Any], None], item: Any) -> Any:
    """What `send` does, where nothing but `home` itself ends its loop: no timer looks after the call."""
    here, token = _here, current_trio_token()
    if here.token is not token:
        here.token, here.mailbox = token, Mailbox(token.run_sync_soon)
    sending = _TrioSending(home, put, item, current_task(), here.mailbox)
    try:
        sending.post()
    except RuntimeError as error:
        raise not_started() from error
    await wait_task_rescheduled(sending.abort)
    return sending.result if sending.outcome is None else result_of(home, sending.outcome)


class _TrioSending(Sending[Any]):
    """Its outcome goes back without a closure, and a plain result without an `Outcome`."""

    __slots__ = ("_back", "_raise_cancel", "_task", "outcome", "result")

    def __init__(self, home: Home, put: Callable[[Any, Any], None], item: Any, task: Task, back: Mailbox) -> None:
        Sending.__init__(self, home, put, item, _nobody)
        self._task = task
        self._back = back
        self._raise_cancel: Callable[[], Any] | None = None
        self.outcome: Outcome[Any] | None = None
        self.result: Any = None

    def abort(self, raise_cancel: Callable[[], Any]) -> Abort:
        """The caller is cancelled: so is the call, and the caller goes on when it is truly over there."""
        self._raise_cancel = raise_cancel
        self.cancel()
        return Abort.FAILED

    def set_result(self, result: Any, /) -> None:
        if self._claim():
            self.result = result
            self._tell()

    def finish(self, outcome: Outcome[Any]) -> bool:
        if not self._claim():
            return False
        self.outcome = outcome
        self._tell()
        return True

    def _claim(self) -> bool:
        """True for the first who ends the call."""
        try:
            self._calls.remove(self)
        except KeyError:
            return False
        return True

    def _tell(self) -> None:
        # Not `suppress`: this is on the way of every call.
        try:  # noqa: SIM105
            self._back.post(self._arrive)
        except RuntimeError:
            pass  # the caller's run is over: nobody waits

    def _arrive(self) -> None:
        """In the trio run."""
        outcome = self.outcome
        if outcome is not None and outcome.cancelled and self._raise_cancel is not None:
            reschedule(self._task, outcomes.capture(self._raise_cancel))
        else:
            reschedule(self._task)


def _nobody(_outcome: Outcome[Any]) -> None:
    raise AssertionError("a sending from trio tells its task itself")
