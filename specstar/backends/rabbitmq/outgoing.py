"""Messages on their way to the broker, each with a caller who waits for its confirm, alone or together with others."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Any

__all__ = ["Group", "Grouped", "Outgoing", "Single"]


class Outgoing(ABC):
    """One message on its way."""

    __slots__ = ("body", "deadline", "headers", "priority", "queue", "sent")

    def __init__(
        self, queue: str, body: bytes, deadline: float, priority: int = 0, headers: dict[str, Any] | None = None
    ) -> None:
        self.queue: str = queue
        self.body: bytes = body
        self.deadline: float = deadline
        self.priority: int = priority
        self.headers: dict[str, Any] | None = headers
        self.sent: bool = False

    @abstractmethod
    def over(self) -> bool:
        """True once nobody waits for it any more: its caller has a result, or gave up."""

    @abstractmethod
    def finish(self, error: Exception | None) -> None:
        """Give its caller the result."""


class Single(Outgoing):
    """One that its caller waits for alone. `waiter` is set once it is made: a plain attribute is what the hot path can afford."""

    __slots__ = ("waiter",)

    waiter: asyncio.Future[None]

    def over(self) -> bool:
        return self.waiter.done()

    def finish(self, error: Exception | None) -> None:
        if error is None:
            self.waiter.set_result(None)
        else:
            self.waiter.set_exception(error)


class Grouped(Outgoing):
    """One of a group; `group` and `is_over` are set once it is made, too."""

    __slots__ = ("group", "is_over")

    group: Group

    def over(self) -> bool:
        return self.is_over or self.group.waiter.done()

    def finish(self, error: Exception | None) -> None:
        self.is_over: bool = True
        self.group.one_ended(self, error)


class Group:
    """Messages that one caller waits for together: over once each has ended."""

    def __init__(self, waiter: asyncio.Future[None], count: int) -> None:
        self.waiter = waiter
        self.left: int = count
        self.failed: list[tuple[Outgoing, Exception]] = []

    def one_ended(self, outgoing: Outgoing, error: Exception | None) -> None:
        if error is not None:
            self.failed.append((outgoing, error))
        self.left -= 1
        if self.left == 0 and not self.waiter.done():
            self.waiter.set_result(None)
