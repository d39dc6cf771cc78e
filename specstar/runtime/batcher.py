"""The batcher: calls of one kind that are awaited at the same time travel together. No timer: a lone call leaves at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Sequence
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel

from specstar.errors import BackendError, BackendUnavailable, OutcomeUnknownError, twin_of
from specstar.runtime.counts import BatchCounts
from specstar.runtime.home import Home, Waiter
from specstar.runtime.sending import send

__all__ = ["Batcher"]

Item = TypeVar("Item")
Result = TypeVar("Result")
# Of the loop: how many in a row without a new call show that all have come, and how many are waited for at most.
_QUIET_TURNS = 3
_MOST_TURNS = 32
# Where even the quickest of the last few flushes took longer, they wait for the network, or for a lock, not for a processor.
_SLOW_SECONDS = 0.025
_LOOKED_AT = 4


class _Entry(Generic[Item]):
    __slots__ = ("item", "key", "since", "waiter")

    def __init__(self, item: Item, waiter: Waiter[Any], key: Hashable, since: float) -> None:
        self.item = item
        self.waiter = waiter
        self.key = key
        self.since = since


class Batcher(Generic[Item, Result]):
    """Turns many awaiting callers into few flushes.

    `flush` takes a list of items and returns one entry an item, in order: a result, or an exception for that caller alone. If
    it raises, all callers of that batch get the error. While `max_in_flight` flushes are under way, what arrives forms the
    next batch, up to `max_items` and, by `size_of` (bytes), `max_bytes`; a larger item travels alone. Where several flushes
    may be under way, many callers are shared out evenly among them, at least `share_from` to each: one batch is prepared and
    its answers are handed out while the store works on another; those who waited leave one turn of the loop after an answer,
    with those whom it woke. (Not callers on other loops and threads: all of these leave together.) `worth`: how many a flush
    must carry at present to leave beside another. With `gathers`, for a slow store, the callers whom a flush wakes have a few
    turns of the loop to send again before the next one leaves. While flushes are slow, as over a long way, `max_when_slow` of
    them are under way: else callers would wait a round trip for their turn. With `key_of`, two items of one key are never in
    flight together, and leave in order of arrival; None as key means free to go.

    A caller cancelled while it waits takes its item out; once its item is in flight, the flush goes on for the neighbours.
    An item that waited longer than `max_wait` seconds is refused with `BackendUnavailable` instead of being sent. When the
    home closes under a flush, its callers get `BackendUnavailable`, or `OutcomeUnknownError` if the flush `writes`. All
    methods but `submit` belong to the home loop; the flushes are tasks of the home.
    """

    def __init__(
        self,
        home: Home,
        flush: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        name: str,
        max_items: int = 512,
        max_bytes: int = 4 << 20,
        max_in_flight: int = 2,
        max_when_slow: int = 0,
        share_from: int = 16,
        worth: Callable[[], int] | None = None,
        size_of: Callable[[Item], int] | None = None,
        key_of: Callable[[Item], Hashable] | None = None,
        max_wait: float = 60.0,
        writes: bool = False,
        gathers: bool = False,
    ) -> None:
        self.name = name
        self.counts: BatchCounts = BatchCounts()
        self._home = home
        self._flush = flush
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._max_in_flight = max_in_flight
        self._max_when_slow = max(max_when_slow, max_in_flight)
        self._most = max_in_flight
        self._took: deque[float] = deque(maxlen=_LOOKED_AT)
        self._share_from = share_from
        self._worth = worth
        self._size_of = size_of
        self._key_of = key_of
        self._max_wait = max_wait
        self._writes = writes
        self._gathers = gathers
        self._pending: deque[_Entry[Item]] = deque()
        self._in_flight = 0
        self._items_in_flight = 0
        self._starting = False
        self._shares = True
        self._idle: anyio.Event | None = None
        # One entry per key that is pending or in flight; the deque holds those that must wait for it.
        self._keys: dict[Hashable, deque[_Entry[Item]] | None] = {}
        self._held = 0
        home.batches.add(self)

    @property
    def waiting(self) -> int:
        """Items that wait, for their turn or for their key."""
        return len(self._pending) + self._held

    @property
    def in_flight(self) -> int:
        """Flushes under way."""
        return self._in_flight

    @property
    def busy(self) -> bool:
        """True if something waits or is in flight."""
        return self._in_flight > 0 or bool(self._pending)

    def submit(self, item: Item) -> Coroutine[Any, Any, Result]:
        """Send one item with the next batch and wait for its own result or error. From any thread and loop."""
        home = self._home
        return self.submit_here(item) if home.is_current() else send(home, self._put_from_afar, item)

    async def submit_here(self, item: Item) -> Result:
        """`submit` for those who know that they are on the home loop."""
        waiter = self._home.waiter()
        if self._put(item, waiter):
            self._shares = True
            self._start()
        result: Result = await waiter
        return result

    def _put_from_afar(self, item: Item, waiter: Waiter[Any]) -> None:
        if not self._put(item, waiter):
            return
        # Not shared out: the way to another thread and back costs more than working side by side gains.
        self._shares = False
        if not self._in_flight or len(self._pending) >= self._max_items:
            self._start()

    def _put(self, item: Item, waiter: Waiter[Any]) -> bool:
        """True if the item may leave with the next batch, False if it must wait for its key."""
        if self._home.closing:
            raise BackendUnavailable(f"{self.name}: closed")
        key = self._key_of(item) if self._key_of is not None else None
        entry = _Entry(item, waiter, key, self._home.time())
        if entry.key is not None:
            if entry.key in self._keys:
                held = self._keys[entry.key]
                if held is None:
                    held = self._keys[entry.key] = deque()
                held.append(entry)
                self._held += 1
                return False
            self._keys[entry.key] = None
        self._pending.append(entry)
        return True

    def _start(self) -> None:
        """Start another flush if one may be added; the new task takes all that arrives in this turn of the loop."""
        if self._starting or self._in_flight >= self._most:
            return
        if self._home.closing:
            # Another thread said so after this item had been let in, and no flush is under way that would take it.
            while not self._in_flight and (rest := self._take()):
                self._fail(rest, BackendUnavailable(f"{self.name}: closed before the call was sent"))
            return
        if self._in_flight and self._worth is not None and len(self._pending) < self._worth():
            return
        self._starting = True
        self._in_flight += 1
        self._home.spawn(self._work)

    def hurry(self) -> None:
        """What `worth` says has changed: start another flush for what waits, if one may be added."""
        if self._pending:
            self._start()

    async def _work(self) -> None:
        """Send batches until nothing waits. One of at most `max_in_flight` such tasks, more if they are slow."""
        batch: list[_Entry[Item]] = []
        try:
            while True:
                batch = self._take()
                self._starting = False
                if not batch:
                    return
                # What one flush could not carry may leave at once by another.
                if self._pending:
                    self._start()
                await self._send(batch)
                batch = []
                if self._in_flight > self._most:
                    return  # it was added while they were slow
                if self._gathers:
                    await self._gather()
                elif self._pending and self._max_in_flight > 1:
                    # Those whom it woke go with those who waited: else three groups would take turns at two flushes.
                    await anyio.lowlevel.checkpoint()
        except BaseException:
            # Cancelled: the home is closing. Nobody may wait for ever.
            in_flight = f"{self.name}: closed while the call was in flight"
            self._fail(batch, OutcomeUnknownError(in_flight) if self._writes else BackendUnavailable(in_flight))
            while rest := self._take():
                self._fail(rest, BackendUnavailable(f"{self.name}: closed before the call was sent"))
            raise
        finally:
            self._in_flight -= 1
            if self._idle is not None and not self._in_flight:
                self._idle.set()

    async def _gather(self) -> None:
        """Let the callers that a flush has woken send again: else they and those who waited take turns, in half batches."""
        quiet = 0
        for _ in range(_MOST_TURNS):
            waiting = len(self._pending)
            await anyio.lowlevel.checkpoint()
            quiet = 0 if len(self._pending) > waiting else quiet + 1
            if quiet == _QUIET_TURNS:
                return

    def _take(self) -> list[_Entry[Item]]:
        batch: list[_Entry[Item]] = []
        size = 0
        pending = self._pending
        oldest = self._home.time() - self._max_wait
        most = self._max_items
        if self._shares:
            share = -(-(len(pending) + self._items_in_flight) // self._max_in_flight)
            if self._worth is None or share >= self._worth():
                most = min(most, max(share, self._share_from))
        while pending and len(batch) < most:
            entry = pending[0]
            if entry.waiter.done():  # its caller was cancelled
                pending.popleft()
                self._release(entry)
                continue
            if entry.since < oldest:
                pending.popleft()
                message = (
                    f"{self.name}: not sent within {self._max_wait:g} s, {len(pending)} more calls wait; retry later"
                )
                entry.waiter.set_exception(BackendUnavailable(message))
                self.counts.failed += 1
                self._release(entry)
                continue
            if self._size_of is not None:
                size += self._size_of(entry.item)
                if batch and size > self._max_bytes:
                    break
            pending.popleft()
            batch.append(entry)
        return batch

    async def _send(self, batch: list[_Entry[Item]]) -> None:
        counts, now = self.counts, self._home.time
        began = now()
        counts.requests += 1
        counts.calls += len(batch)
        counts.waited += began - batch[0].since
        self._items_in_flight += len(batch)
        try:
            results = await self._flush([entry.item for entry in batch])
        except Exception as error:
            self._fail(batch, error)
            return
        finally:
            took = now() - began
            counts.took.add(took)
            if self._max_when_slow > self._max_in_flight:
                self._took.append(took)
                self._most = self._max_when_slow if min(self._took) > _SLOW_SECONDS else self._max_in_flight
            self._items_in_flight -= len(batch)
        if len(results) != len(batch):
            self._fail(batch, BackendError(f"{self.name}: {len(results)} results for {len(batch)} items"))
            return
        for entry, result in zip(batch, results, strict=True):
            if not entry.waiter.done():
                if isinstance(result, Exception):
                    counts.failed += 1
                    entry.waiter.set_exception(result)
                else:
                    entry.waiter.set_result(result)
            if entry.key is not None:
                self._release(entry)

    def _fail(self, batch: list[_Entry[Item]], error: Exception) -> None:
        self.counts.failed += len(batch)
        for entry in batch:
            if not entry.waiter.done():
                entry.waiter.set_exception(twin_of(error) if len(batch) > 1 else error)
            self._release(entry)

    def _release(self, entry: _Entry[Item]) -> None:
        """Let the next item of this key go."""
        if entry.key is None:
            return
        held = self._keys.pop(entry.key, None)
        while held:
            follower = held.popleft()
            self._held -= 1
            if follower.waiter.done():
                continue
            self._keys[entry.key] = held or None
            self._pending.append(follower)
            self._start()
            return

    async def drain(self, timeout: float) -> bool:
        """Wait until nothing is pending or in flight; False if `timeout` seconds were not enough."""
        with anyio.move_on_after(timeout):
            while self._in_flight or self._pending:
                if self._idle is None or self._idle.is_set():
                    self._idle = anyio.Event()
                await self._idle.wait()
            return True
        return False
