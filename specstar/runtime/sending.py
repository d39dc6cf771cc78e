"""An item for a batcher, sent from another thread: without a task of its own on the batcher's loop."""

from __future__ import annotations

from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

from specstar.runtime.crossing import deliver
from specstar.runtime.home import Call, Home, Outcome, Waiter
from specstar.runtime.thread_home import ThreadHome
from specstar.runtime.trio_home import in_trio

__all__ = ["Sending", "send"]

Item = TypeVar("Item")
T = TypeVar("T")
_Send: TypeAlias = Callable[[Home, Callable[..., None], Any], Coroutine[Any, Any, Any]]
# Imported on first use, since it imports trio; kept, since an import statement on the way of each call is not free.
_send_from_trio: _Send | None = None


def send(home: Home, put: Callable[[Item, Waiter[Any]], None], item: Item) -> Coroutine[Any, Any, Any]:
    """Call `put` with the item and a waiter on the loop of `home`, and wait here for what that waiter is given.

    Raises like `cross_to`.
    """
    if type(home) is ThreadHome and events._get_running_loop() is None and in_trio():
        return (_send_from_trio or _trio_way())(home, put, item)

    def submit(done: Callable[[Outcome[Any]], None]) -> Call[Any]:
        call = Sending(home, put, item, done)
        call.post()
        return call

    return deliver(home, submit)


def _trio_way() -> _Send:
    global _send_from_trio
    from specstar.runtime.trio_sending import send_from_trio

    _send_from_trio = send_from_trio
    return send_from_trio


class Sending(Call[T]):
    """The call, and on the home loop the waiter that its outcome is given to."""

    __slots__ = ("_item", "_put")

    def __init__(
        self, home: Home, put: Callable[[Any, Waiter[Any]], None], item: Any, done: Callable[[Outcome[T]], None]
    ) -> None:
        Call.__init__(self, home, done)
        self._put = put
        self._item = item

    def _begin(self) -> None:
        self.started = True
        try:
            self._put(self._item, self)
        except Exception as error:
            self.finish(Outcome(error=error))

    def cancel_here(self) -> None:
        self.finish(Outcome(cancelled=True, started=self.started))

    def done(self) -> bool:
        """True once it has an outcome, or was cancelled."""
        return self not in self._calls

    def set_result(self, result: T, /) -> None:
        """End the call with a result."""
        self.finish(Outcome(result))

    def set_exception(self, exception: BaseException, /) -> None:
        """End the call with an error."""
        self.finish(Outcome(error=exception))

    def __await__(self) -> Any:
        raise RuntimeError("a sending is awaited on the loop that sent it")
