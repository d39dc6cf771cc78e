"""What the batches of a runtime have carried, counted once a batch: numbers for whoever watches a program from outside."""

from __future__ import annotations

import threading
import weakref
from typing import Protocol

from specstar.runtime.durations import Durations
from specstar.runtime.process import join

__all__ = ["BatchCounts", "Batches"]

# Kept before it is worth a look which of them are gone.
_FEWEST = 64


class BatchCounts:
    """Of the batches of one kind. `calls` were sent in `requests`, which took `took`; `failed` of them ended in an error.

    `waited` is how long the first call of each batch had waited, summed, in seconds.
    """

    __slots__ = ("calls", "failed", "requests", "took", "waited")

    def __init__(self) -> None:
        self.calls: int = 0
        self.failed: int = 0
        self.requests: int = 0
        self.took: Durations = Durations()
        self.waited: float = 0.0

    def add(self, other: BatchCounts) -> None:
        """Count what another has counted, too."""
        self.calls += other.calls
        self.failed += other.failed
        self.requests += other.requests
        self.took.merge(other.took)
        self.waited += other.waited


class Counted(Protocol):
    """What sends batches."""

    name: str
    counts: BatchCounts

    @property
    def waiting(self) -> int:
        """Calls that are not sent yet."""
        ...


class Batches:
    """All that sends batches in one runtime, by name, also what was there before a loop ended or a connection was closed.

    Read from any thread. A forked child begins at zero.
    """

    def __init__(self) -> None:
        self._living: list[tuple[weakref.ref[Counted], str, BatchCounts]] = []
        self._gone: dict[str, BatchCounts] = {}
        self._most = _FEWEST
        self._lock = threading.Lock()
        join(self)

    def add(self, counted: Counted) -> None:
        """Count this one's batches too. It is not kept alive by that."""
        with self._lock:
            self._living.append((weakref.ref(counted), counted.name, counted.counts))
            if len(self._living) > self._most:
                self._fold()

    def _fold(self) -> None:
        """Keep of those that are gone only their sums. Done whenever twice as many are there: a program may have thousands."""
        living = []
        for entry in self._living:
            reference, name, counts = entry
            if reference() is None:
                self._gone.setdefault(name, BatchCounts()).add(counts)
            else:
                living.append(entry)
        self._living = living
        self._most = max(_FEWEST, 2 * len(living))

    def read(self) -> dict[str, tuple[BatchCounts, int]]:
        """The counts and the calls that wait, by name."""
        found: dict[str, BatchCounts] = {}
        waiting: dict[str, int] = {}
        with self._lock:
            for name, gone in self._gone.items():
                found.setdefault(name, BatchCounts()).add(gone)
            for reference, name, living in self._living:
                found.setdefault(name, BatchCounts()).add(living)
                counted = reference()
                if counted is not None:
                    waiting[name] = waiting.get(name, 0) + counted.waiting
        return {name: (counts, waiting.get(name, 0)) for name, counts in found.items()}

    def after_fork(self) -> None:
        """In a forked child: what the parent's batches carried is the parent's, and so is what waits there."""
        self._lock = threading.Lock()
        self._gone.clear()
        self._living.clear()

    def end(self) -> None:
        """The program ends: nothing to do."""
