"""An item for a batcher, sent from trio to a home in a thread of its own: one object for both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import outcome as outcomes
from trio.lowlevel import (
    Abort,
    Task,
    current_task,
    current_trio_token,
    enable_ki_protection,
    reschedule,
    wait_task_rescheduled,
)

from specstar.runtime.crossing import mailbox_of, not_started, post, result_of
from specstar.runtime.home import Home, Outcome
from specstar.runtime.mailbox import Mailbox
from specstar.runtime.sending import Sending

__all__ = ["send_from_trio"]


@enable_ki_protection
async def send_from_trio(home: Home, put: Callable[[Any, Any], None], item: Any) -> Any:
    """What `send` does, where nothing but `home` itself ends its loop: no timer looks after the call."""
    token = current_trio_token()
    sending = _TrioSending(home, put, item, current_task(), mailbox_of(token, token.run_sync_soon))
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
            post(self._back, self._arrive)

    def finish(self, outcome: Outcome[Any]) -> bool:
        if not self._claim():
            return False
        self.outcome = outcome
        post(self._back, self._arrive)
        return True

    def _arrive(self) -> None:
        """In the trio run."""
        outcome = self.outcome
        if outcome is not None and outcome.cancelled and self._raise_cancel is not None:
            reschedule(self._task, outcomes.capture(self._raise_cancel))
        else:
            reschedule(self._task)


def _nobody(_outcome: Outcome[Any]) -> None:
    raise AssertionError("a sending from trio tells its task itself")
