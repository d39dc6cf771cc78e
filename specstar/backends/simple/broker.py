"""The messages of this process, by queue. They belong to no event loop and outlive one; they end with the process."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime

from specstar.roles import DeadLetter, Message
from specstar.runtime import Connection, ServerInfo

__all__ = ["Hand", "Item", "QueueState", "SimpleBroker"]

logger: logging.Logger = logging.getLogger("specstar")
_PRIORITIES = 10


class Item:
    """A message in the queue, and whether an earlier delivery of it was lost."""

    __slots__ = ("message", "redelivered")

    def __init__(self, message: Message, redelivered: bool = False) -> None:
        self.message: Message = message
        self.redelivered: bool = redelivered


class Hand(ABC):
    """What holds messages of a queue without having ended them: a consumer."""

    @abstractmethod
    def give_back(self) -> None:
        """Give all of them back; no waiting, and no event loop needed."""


class QueueState:
    """One queue as plain data. A message is ready, delayed, held back by its partition, in hand, or dead."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready: tuple[deque[Item], ...] = tuple(deque() for _ in range(_PRIORITIES))
        self.ready_count: int = 0
        self.delayed: list[tuple[float, int, Item]] = []
        # Per partition with a message that is ready or in hand: those that must wait for it.
        self.partitions: dict[str, deque[Item] | None] = {}
        self.held_count: int = 0
        self.in_hand: int = 0
        self.hands: set[Hand] = set()
        self.dead: dict[str, DeadLetter] = {}
        self._ids: dict[str, int] = {}
        self._order = itertools.count()

    @property
    def size(self) -> int:
        """All messages but the dead ones."""
        return self.ready_count + self.held_count + len(self.delayed) + self.in_hand

    def holds(self, message_id: str) -> bool:
        """True if a message of this id waits or is in hand."""
        return message_id in self._ids

    def add(self, message: Message, delay: float) -> bool:
        """Take a new message; True if it is ready now."""
        ids = self._ids
        ids[message.id] = ids.get(message.id, 0) + 1
        item = Item(message)
        if delay > 0:
            heapq.heappush(self.delayed, (time.monotonic() + delay, next(self._order), item))
            return False
        return self._enter(item)

    def _enter(self, item: Item) -> bool:
        key = item.message.partition_key
        if key is not None:
            if key in self.partitions:
                held = self.partitions[key]
                if held is None:
                    held = self.partitions[key] = deque()
                held.append(item)
                self.held_count += 1
                return False
            self.partitions[key] = None
        self.ready[item.message.priority].append(item)
        self.ready_count += 1
        return True

    def take(self) -> Item | None:
        """The next ready message, into a worker's hand."""
        if not self.ready_count:
            return None
        for waiting in reversed(self.ready):
            if waiting:
                self.ready_count -= 1
                self.in_hand += 1
                return waiting.popleft()
        raise AssertionError("ready_count counts what is ready")

    def put_back(self, item: Item) -> None:
        """A delivery was lost: the message is the next of its priority, and its partition stays taken."""
        item.redelivered = True
        self.in_hand -= 1
        self.ready[item.message.priority].appendleft(item)
        self.ready_count += 1

    def finish(self, item: Item) -> bool:
        """A delivery has ended; True if the next message of its partition is ready now."""
        self.in_hand -= 1
        self._forget(item)
        key = item.message.partition_key
        return key is not None and self._release(key)

    def _release(self, key: str) -> bool:
        held = self.partitions.pop(key)
        if not held:
            return False
        follower = held.popleft()
        self.held_count -= 1
        self.partitions[key] = held or None
        self.ready[follower.message.priority].append(follower)
        self.ready_count += 1
        return True

    def _forget(self, item: Item) -> None:
        left = self._ids[item.message.id] - 1
        if left:
            self._ids[item.message.id] = left
        else:
            del self._ids[item.message.id]

    def due(self) -> int:
        """Let the delayed messages whose time has come in; returns how many are ready by that."""
        now = time.monotonic()
        entered = 0
        while self.delayed and self.delayed[0][0] <= now:
            entered += self._enter(heapq.heappop(self.delayed)[2])
        return entered

    def seconds_to_due(self) -> float | None:
        """Until the next delayed message is due; None if there is none."""
        return max(self.delayed[0][0] - time.monotonic(), 0.0) if self.delayed else None

    def bury(self, message: Message, reason: str) -> None:
        """Park a message; the latest copy of an id replaces the one before."""
        self.dead.pop(message.id, None)
        self.dead[message.id] = DeadLetter(message=message, reason=reason, time=datetime.now(UTC))

    def exhume(self, ids: Iterable[str] | None) -> list[DeadLetter]:
        """Take dead letters out (None: all)."""
        return [self.dead.pop(key) for key in self.buried(ids)]

    def buried(self, ids: Iterable[str] | None) -> list[str]:
        """Those of the ids (None: all) that have a dead letter."""
        return list(self.dead) if ids is None else [key for key in dict.fromkeys(ids) if key in self.dead]

    def clear(self) -> int:
        """Drop all that waits; what is in hand and what is dead stays. Returns how many."""
        dropped = [item for waiting in self.ready for item in waiting]
        dropped += [item for _, _, item in self.delayed]
        dropped += [item for held in self.partitions.values() if held for item in held]
        ready_keys = {item.message.partition_key for waiting in self.ready for item in waiting}
        for item in dropped:
            self._forget(item)
        for waiting in self.ready:
            waiting.clear()
        self.delayed.clear()
        self.partitions = {key: None for key in self.partitions if key not in ready_keys}
        self.ready_count = self.held_count = 0
        return len(dropped)


class SimpleBroker(Connection):
    """All queues of one spec in this process."""

    portable = True

    def __init__(self) -> None:
        self._queues: dict[str, QueueState] = {}
        self._pid = os.getpid()

    async def open(self) -> None:
        return

    async def ping(self) -> ServerInfo:
        waiting = sum(queue.size for queue in self._queues.values())
        return ServerInfo(version="in-process", detail=f"{len(self._queues)} queues, {waiting} messages")

    def queue(self, name: str) -> QueueState:
        """The queue of this name, made on first use."""
        if self._pid != os.getpid():
            # A forked child: the messages are its parent's.
            self._queues.clear()
            self._pid = os.getpid()
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = QueueState(name)
        return queue

    async def aclose(self) -> None:
        for queue in self._queues.values():
            if queue.size:
                logger.warning(
                    "queue %r of simple closes with %d messages: they end here (those with durable state are sent again)",
                    queue.name,
                    queue.size,
                )
        self._queues.clear()

    def abandon(self) -> None:
        self._queues.clear()
