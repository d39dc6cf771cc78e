"""Callers that write through managers whatever happens, with an exact record of what they were told, checked afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import msgspec

from specstar import QB, RevisionInfo
from specstar.errors import (
    BackendError,
    BackendUnavailable,
    OutcomeUnknownError,
    ResourceNotFoundError,
    RevisionConflictError,
    SpecstarError,
)
from specstar.resource_manager import ResourceManager
from tests.faults.ledger import Figures

__all__ = ["Entry", "ManagedLoad", "fresh_seed"]

T = TypeVar("T")

_AFTER_REFUSAL_SECONDS = 0.02


class Entry(msgspec.Struct):
    """What is written: `op` is unique, so that a write that was made twice shows."""

    caller: int
    op: str
    padding: str = ""


def fresh_seed() -> int:
    """SPECSTAR_FAULTS_SEED, or a new one; every assertion prints it."""
    return int(os.environ.get("SPECSTAR_FAULTS_SEED") or random.SystemRandom().randrange(1 << 32))


class _Caller:
    """One caller: its own resources, and the one that it shares with the others."""

    def __init__(self, load: ManagedLoad, number: int) -> None:
        self.load = load
        self.number = number
        self.users = load.managers[number % len(load.managers)]
        self.chance = random.Random(f"{load.seed}-{number}")
        self.acknowledged = 0
        self.ops = 0
        # Own resources, with the revision that the last acknowledged write made; None once that is not known for sure.
        self.known: dict[str, str | None] = {}

    async def step(self) -> None:
        choice = self.chance.random()
        if choice < 0.35 or not self.known:
            await self._create()
        elif choice < 0.7:
            await self._update(conditional=False)
        elif choice < 0.85:
            await self._update(conditional=True)
        elif choice < 0.95:
            await self._contend()
        else:
            await self._read_own()

    def _entry(self) -> Entry:
        self.ops += 1
        # Random, so that nobody can compress it.
        padding = self.chance.randbytes(self.chance.randrange(self.load.padding // 2 + 1)).hex()
        return Entry(self.number, f"{self.number}-{self.ops}", padding)

    async def _create(self) -> None:
        entry = self._entry()
        resource_id = f"own-{entry.op}"
        outcome = await self.load.attempt(
            resource_id, entry.op, self.users.create(entry, resource_id=resource_id), self
        )
        if outcome is not None:
            self.known[resource_id] = outcome

    async def _update(self, *, conditional: bool) -> None:
        resource_id = self.chance.choice(list(self.known))
        expected = self.known[resource_id] if conditional else None
        entry = self._entry()
        call = self.users.update(resource_id, entry, expected_revision_id=expected)
        outcome = await self.load.attempt(resource_id, entry.op, call, self)
        if outcome is not None:
            self.known[resource_id] = outcome
        elif entry.op in self.load.unknown:
            self.known[resource_id] = None

    async def _contend(self) -> None:
        """Build upon what others write too: an update that was lost would show as an op that is missing."""
        resource_id = self.chance.choice(self.load.shared)
        try:
            with self.load.timed():
                found = await self.users.get(resource_id)
        except BackendError as error:
            self.load.refusals[type(error).__name__] += 1
            return
        entry = self._entry()
        call = self.users.update(resource_id, entry, expected_revision_id=found.info.revision_id)
        await self.load.attempt(resource_id, entry.op, call, self, rivals=True)

    async def _read_own(self) -> None:
        resource_id = self.chance.choice(list(self.known))
        expected = self.known[resource_id]
        try:
            with self.load.timed():
                found = await self.users.get(resource_id)
        except BackendError as error:
            self.load.refusals[type(error).__name__] += 1
            return
        if expected is not None and found.info.revision_id != expected:
            self.load.strange.append(f"{resource_id}: revision {found.info.revision_id} is not the acknowledged one")


class ManagedLoad:
    """Many callers on one or several managers (of several programs, as it were) of the same model.

    A write ends acknowledged, refused (it must not be there), or unknown (`OutcomeUnknownError`: it may be there, once).
    A call that takes longer than `limit` seconds, or ends in any other way, fails `verify`. `conflicts`: the backend may
    refuse any write because another program wrote first.
    """

    def __init__(
        self,
        managers: Sequence[ResourceManager[Entry]],
        figures: Figures,
        *,
        limit: float,
        callers: int = 32,
        shared: int = 3,
        pause: float = 0.02,
        padding: int = 200,
        conflicts: bool = False,
        seed: int | None = None,
    ) -> None:
        self.managers = managers
        self.figures = figures
        self.limit = limit
        self.pause = pause
        self.padding = padding
        self.conflicts = conflicts
        self.seed = fresh_seed() if seed is None else seed
        self.chance = random.Random(self.seed)
        self.shared = [f"shared-{number}" for number in range(shared)]
        self.acknowledged: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.unknown: dict[str, str] = {}
        self.refusals: Counter[str] = Counter()
        self.strange: list[str] = []
        self.callers = [_Caller(self, number) for number in range(callers)]
        self._stopped = False

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Hold a call to the limit."""
        begun = time.monotonic()
        try:
            with self.figures.stall():
                yield
        finally:
            taken = time.monotonic() - begun
            if taken > self.limit:
                self.strange.append(f"a call took {taken:.1f} s, over the limit of {self.limit:g} s")

    async def attempt(
        self,
        resource_id: str,
        op: str,
        call: Awaitable[RevisionInfo],
        caller: _Caller | None = None,
        *,
        rivals: bool = False,
    ) -> str | None:
        """Make one write and note how it ended; its revision id if it was acknowledged. `rivals` may win a race."""
        try:
            with self.timed():
                info = await call
        except OutcomeUnknownError:
            self.unknown[op] = resource_id
        except (BackendError, RevisionConflictError) as error:
            self.refused[op] = resource_id
            conflict = isinstance(error, RevisionConflictError)
            self.refusals[type(error).__name__ + ("" if conflict else f": {str(error)[:240]}")] += 1
            if conflict and not (rivals or self.conflicts):
                self.strange.append(f"{op} lost a race on {resource_id}, which nobody else writes")
            await asyncio.sleep(_AFTER_REFUSAL_SECONDS)
        except SpecstarError as error:
            self.refused[op] = resource_id
            self.strange.append(f"{op} of {resource_id}: {type(error).__name__}: {error}")
        else:
            self.acknowledged[op] = resource_id
            self.figures.acknowledged += 1
            if caller is not None:
                caller.acknowledged += 1
            return info.revision_id
        return None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The callers go on for as long as the block lasts, and have ended when it is left."""
        for resource_id in self.shared:
            await self.attempt(
                resource_id, resource_id, self.managers[0].create(Entry(-1, resource_id), resource_id=resource_id)
            )

        async def run(caller: _Caller) -> None:
            while not self._stopped:
                await caller.step()
                await asyncio.sleep(caller.chance.uniform(0, self.pause))

        self._stopped = False
        async with asyncio.TaskGroup() as group:
            for caller in self.callers:
                group.create_task(run(caller))
            try:
                yield
            finally:
                self._stopped = True

    async def progress(self, within: float) -> None:
        """Every caller has a write acknowledged that began after now; the wait counts as a stall."""
        before = [caller.acknowledged for caller in self.callers]
        with self.figures.stall():
            try:
                async with asyncio.timeout(within):
                    for caller, count in zip(self.callers, before, strict=True):
                        while caller.acknowledged < count + 2:  # noqa: ASYNC110  counted by others
                            await asyncio.sleep(0.005)
            except TimeoutError:
                stuck = sum(caller.acknowledged < count + 2 for caller, count in zip(self.callers, before, strict=True))
                raise AssertionError(
                    f"{stuck} callers got nothing through within {within:g} s (seed {self.seed}): "
                    f"{self.refusals.most_common(4)}"
                ) from None

    async def verify(self, users: ResourceManager[Entry]) -> None:
        """Look at everything through `users`, count what is lost and what is there twice, and fail if there is any."""
        resources = sorted({*self.acknowledged.values(), *self.refused.values(), *self.unknown.values()})
        found: Counter[str] = Counter()
        total_revision_count = 0
        misplaced: list[str] = []
        of_callers: Counter[int] = Counter()

        async def look(resource_id: str) -> None:
            nonlocal total_revision_count
            try:
                current = await _answered(lambda: users.get(resource_id))
            except ResourceNotFoundError:
                return
            of_callers[current.data.caller] += 1
            revisions = await _answered(lambda: users.list_revisions(resource_id))
            total_revision_count += current.meta.revision_count
            if current.meta.revision_count != len(revisions):
                misplaced.append(f"{resource_id} counts {current.meta.revision_count} revisions, has {len(revisions)}")
            chain = [None, *(revision.revision_id for revision in revisions[:-1])]
            if [revision.parent_revision_id for revision in revisions] != chain:
                misplaced.append(f"the revisions of {resource_id} are no chain")
            read = await asyncio.gather(
                *(_answered(partial(users.get, resource_id, revision_id=each.revision_id)) for each in revisions)
            )
            for resource in read:
                found[resource.data.op] += 1
                told = self.acknowledged.get(resource.data.op) or self.unknown.get(resource.data.op)
                if told is not None and told != resource_id:
                    misplaced.append(f"{resource.data.op} lies under {resource_id} instead of {told}")

        for batch in _batches(resources, 200):
            await asyncio.gather(*map(look, batch))
        lost = [op for op in self.acknowledged if not found[op]]
        twice = [op for op, count in found.items() if count > 1]
        ghosts = [op for op in self.refused if found[op]]
        landed = sum(1 for op in self.unknown if found[op])
        self.figures.lost += len(lost)
        self.figures.duplicated += len(twice)
        where = f"seed {self.seed}; refusals {self.refusals.most_common(5)}"
        assert not lost, f"{len(lost)} acknowledged writes are gone, such as {lost[:3]}; {where}"
        assert not twice, f"{len(twice)} writes were made twice, such as {twice[:3]}; {where}"
        assert not ghosts, f"{len(ghosts)} writes were refused and are there, such as {ghosts[:3]}; {where}"
        assert not misplaced, f"{misplaced[:3]}; {where}"
        assert not self.strange, f"{self.strange[:3]} ({len(self.strange)} in all); {where}"
        assert total_revision_count == len(self.acknowledged) + landed, where
        for number, count in of_callers.items():
            assert await users.count(QB["caller"] == number) == count, f"a search misses rows; {where}"


async def _answered(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer to what is asked after the faults: on a loaded machine a new connection may take too long."""
    for _ in range(10):
        with contextlib.suppress(BackendUnavailable):
            return await ask()
        await asyncio.sleep(0.5)
    return await ask()


def _batches(items: Sequence[str], size: int) -> list[Sequence[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
