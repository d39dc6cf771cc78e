"""The exact record of what writers were told, and its comparison with what a new process finds."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterable
from typing import Any

import msgspec

from specstar import QB, Resource, SpecStar
from specstar.errors import BlobNotFoundError
from specstar.resource_manager import ResourceManager
from tests.faults.ledger import Figures
from tests.faults.tools.writing import MODELS, State, Thing, blob_of, declared, model_of, text_of

__all__ = ["Written"]

_PAGE = 300


class _Fate:
    """One resource: the state that was acknowledged last (None: not there), and one that may have come after it."""

    __slots__ = ("pending", "settled", "unknown")

    def __init__(self) -> None:
        self.settled: State | None = None
        self.pending: State | None = None
        self.unknown = False


class Written:
    """What was acknowledged in one store, over the lives of all its writers."""

    def __init__(self, figures: Figures, seed: int) -> None:
        self.figures = figures
        self.seed = seed
        self.round = 0
        self.begun = 0
        self._random = random.Random(seed)
        self._fates: dict[str, _Fate] = {}
        self._revisions: dict[str, list[tuple[str, State]]] = {}
        # Those that one more write may still reach: its sender is dead, but the server may have it in its hands.
        self._floating: set[str] = set()
        self._blobs: dict[tuple[int, int], bool] = {}

    def take(self, records: Iterable[list[Any]]) -> set[str]:
        """Note what a writer said, in its order; the keys that it touched."""
        touched: set[str] = set()
        for word, *rest in records:
            if word == "began":
                self._begin(*rest)
                touched.add(rest[0])
            elif word == "done":
                self._done(*rest)
            else:
                assert word in {"blob_began", "blob_done"}, word
                self._blobs[rest[0], rest[1]] = word == "blob_done"
                self._count(acknowledged=word == "blob_done")
        return touched

    def _begin(self, key: str, state: Any) -> None:
        fate = self._fates.setdefault(key, _Fate())
        assert not fate.unknown, f"{key} has two writes at once: the writers are at fault"
        fate.pending = msgspec.convert(state, State | None)
        fate.unknown = True
        self._count(acknowledged=False)

    def _done(self, key: str, revision_id: str) -> None:
        fate = self._fates[key]
        state = fate.pending
        fate.settled = None if state is None else msgspec.structs.replace(state, revision_id=revision_id)
        fate.pending, fate.unknown = None, False
        self._remember(key, fate.settled)
        self._count(acknowledged=True)

    def _count(self, *, acknowledged: bool) -> None:
        self.figures.acknowledged += acknowledged
        self.begun += not acknowledged

    def _remember(self, key: str, state: State | None) -> None:
        """Earlier revisions must stay readable too; a draft that is rewritten keeps its id."""
        if state is None:
            self._revisions.pop(key, None)
            return
        known = self._revisions.setdefault(key, [])
        if known and known[-1][0] == state.revision_id:
            known.pop()
        known.append((state.revision_id, state))

    def chosen(self, count: int) -> dict[str, State]:
        """Some resources for the next writer to go on with, whose state is known for sure."""
        sure = [
            key
            for key, fate in self._fates.items()
            if fate.settled is not None and not fate.unknown and key not in self._floating
        ]
        picked = self._random.sample(sure, min(count, len(sure)))
        return {key: state for key in picked if (state := self._fates[key].settled) is not None}

    async def check(self, spec: SpecStar, touched: Iterable[str] | None = None, *, floating: bool = False) -> None:
        """Compare with what is stored: the keys that were touched, and some more; without `touched`, all.

        `floating`: a write of a dead writer may still come, so what is open stays open.
        """
        keys = set(self._fates) if touched is None else set(touched) | self._floating | set(self.chosen(20))
        if touched is None:
            self._floating.clear()
        managers = declared(spec)
        rounds = set()
        for name, manager in managers.items():
            mine = sorted(key for key in keys if model_of(key) == name)
            for start in range(0, len(mine), _PAGE):
                part = mine[start : start + _PAGE]
                found = await manager.get_many(part, include_deleted=True)
                for key, resource in zip(part, found, strict=True):
                    self._judge(key, resource, floating=floating)
                    rounds |= {resource.data.round} if resource is not None else set()
        for number in sorted(rounds) if touched is None else [self.round]:
            await self._check_search(managers, number, floating=floating)
        sample = sorted(key for key in keys if key not in self._floating)
        sample = self._random.sample(sample, min(len(sample), 15 if touched is not None else 60))
        await asyncio.gather(*(self._check_revisions(managers[model_of(key)], key) for key in sample))
        blobs = list(self._blobs.items())[-30 if touched is not None else -300 :]
        for start in range(0, len(blobs), 20):
            await asyncio.gather(*(self._check_blob(spec, *blob) for blob in blobs[start : start + 20]))

    def _judge(self, key: str, resource: Resource[Thing] | None, *, floating: bool) -> None:
        """Whole, and what was acknowledged, or the one write after it."""
        fate = self._fates[key]
        actual = None if resource is None else self._state_of(key, resource)
        if _same(actual, fate.settled):
            if fate.unknown and floating:
                self._floating.add(key)
                return
        elif fate.unknown and _same(actual, fate.pending):
            self._remember(key, actual)
        else:
            self.figures.lost += 1
            if actual is not None and fate.settled is not None and actual.revisions > fate.settled.revisions:
                self.figures.duplicated += 1
            expected = f"{fate.settled}" + (f", or {fate.pending}" if fate.unknown else "")
            raise AssertionError(f"seed {self.seed}, round {self.round}: {key} is {actual}, not {expected}")
        fate.settled, fate.pending, fate.unknown = actual, None, False
        self._floating.discard(key)

    def _state_of(self, key: str, resource: Resource[Thing]) -> State:
        thing, meta = resource.data, resource.meta
        assert thing.key == key, f"seed {self.seed}: {key} has the payload of {thing.key}"
        whole = thing.text == text_of(key, thing.serial, len(thing.text))
        assert whole, f"seed {self.seed}: the payload of {key} is torn"
        assert meta.indexed_data == {"key": key, "serial": thing.serial, "round": thing.round}, meta
        assert meta.current_revision_id == resource.info.revision_id
        return State(
            serial=thing.serial,
            round=thing.round,
            size=len(thing.text),
            deleted=meta.is_deleted,
            draft=resource.info.status == "draft",
            revisions=meta.revision_count,
            revision_id=meta.current_revision_id,
        )

    async def _check_search(self, managers: dict[str, ResourceManager[Thing]], number: int, *, floating: bool) -> None:
        """What was written last in a round is found by that, and nothing else is."""
        for name in MODELS:
            found = {
                resource.meta.resource_id: resource
                async for resource in managers[name].iter(QB["round"] == number, include_deleted=True)
            }
            for key, resource in found.items():
                assert key in self._fates, f"seed {self.seed}: {key} was never written"
                self._state_of(key, resource)
            expected = {
                key: fate.settled.serial
                for key, fate in self._fates.items()
                if fate.settled is not None and fate.settled.round == number and model_of(key) == name
            }
            seen = {key: resource.data.serial for key, resource in found.items()}
            open_ = self._floating if floating else set()
            missing = {key for key in expected if seen.get(key) != expected[key]} - open_
            strange = set(seen) - set(expected) - open_
            self.figures.lost += len(missing)
            where = f"seed {self.seed}, round {self.round}: searching {name} of round {number}"
            assert not missing, f"{where} does not find {sorted(missing)[:5]}"
            assert not strange, f"{where} finds {sorted(strange)[:5]}"

    async def _check_revisions(self, manager: ResourceManager[Thing], key: str) -> None:
        """Each revision that was acknowledged can be read, and there are no more than were written."""
        fate = self._fates[key]
        if fate.settled is None:
            assert not await manager.exists(key)
            return
        listed = [info.revision_id for info in await manager.list_revisions(key)]
        known = self._revisions[key]
        if len(listed) > fate.settled.revisions:
            self.figures.duplicated += len(listed) - fate.settled.revisions
        assert len(listed) == fate.settled.revisions, f"seed {self.seed}: {key} has {listed}, not {known}"
        for revision_id, state in known:
            assert revision_id in listed, f"seed {self.seed}: revision {revision_id} of {key} is lost"
            resource = await manager.get(key, revision_id=revision_id, include_deleted=True)
            assert resource.data == Thing(key, state.serial, state.round, text_of(key, state.serial, state.size))

    async def _check_blob(self, spec: SpecStar, blob: tuple[int, int], stored: bool) -> None:
        data = blob_of(*blob)
        try:
            found = await spec.blobs.get(hashlib.sha256(data).hexdigest())
        except BlobNotFoundError:
            self.figures.lost += stored
            assert not stored, f"seed {self.seed}, round {self.round}: blob {blob} is lost"
        else:
            assert found == data, f"seed {self.seed}: blob {blob} is torn"

    def payloads(self, *, over: int = 0) -> int:
        """How many revisions have a payload of more than so many bytes in JSON."""
        things = (
            Thing(key, state.serial, state.round, text_of(key, state.serial, state.size))
            for key, known in self._revisions.items()
            for _, state in known
        )
        return sum(len(msgspec.json.encode(thing)) > over for thing in things)


def _same(actual: State | None, expected: State | None) -> bool:
    """Equal, but for a revision id that nobody was told of."""
    if actual is None or expected is None:
        return actual is expected
    if not expected.revision_id:
        actual = msgspec.structs.replace(actual, revision_id="")
    return actual == expected
