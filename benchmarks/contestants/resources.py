"""specstar's resources, through its public names, on whichever backend the setting binds."""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar, Literal

from msgspec import Struct, convert

from benchmarks.contestant import Contestant, Sample, distributions
from benchmarks.contestants.filling import filled_in
from benchmarks.process import PeakMemory
from benchmarks.sample import person, shuffled_forever
from specstar import QB, Resource, SpecStar
from specstar.resource_manager import ResourceManager

__all__ = ["Resources", "TrioResources"]

_CHUNK = 2000


class Person(Struct):
    """One resource, of which `age` and `name` can be searched."""

    name: str
    age: int
    city: str
    note: str


class Resources(Contestant):
    """`setting["backend"]` is the configuration, `rows` how many resources are read, `search_rows` how many are searched."""

    def start(self) -> None:
        self.spec = SpecStar()
        self.written = self.spec.add_model(Person, name="written", indexed_fields=["age", "name"])
        self.read = self.spec.add_model(Person, name="read", indexed_fields=["age", "name"])
        self.changed = self.spec.add_model(Person, name="changed", indexed_fields=["age", "name"])
        self.found = self.spec.add_model(Person, name="found", indexed_fields=["age", "name"])
        self.spec.configure(backend=filled_in(self.setting["backend"], self.setting))
        self.rows: int = self.setting.get("rows", 10_000)
        self.search_rows: int = self.setting.get("search_rows", 10_000)
        self._held: dict[str, list[tuple[str, str]]] = {}

    async def close(self) -> None:
        await self.spec.aclose()

    def versions(self) -> dict[str, str]:
        return distributions("specstar", *self.setting.get("distributions", ()))

    def person(self, number: int) -> Person:
        """The value of resource `number`."""
        return convert(person(number, self.payload), Person)

    async def fill(self, name: str, rows: int) -> list[tuple[str, str]]:
        """Make sure that a model has its rows: their ids and those of their revisions."""
        if name not in self._held:
            model: ResourceManager[Person] = self.spec.get_resource_manager(name)
            held: list[tuple[str, str]] = []
            for start in range(0, rows, _CHUNK):
                made = await model.create_many([self.person(i) for i in range(start, min(rows, start + _CHUNK))])
                held += [(info.resource_id, info.revision_id) for info in made]
            self._held[name] = held
        return self._held[name]

    async def create(self, caller: int) -> None:
        """One new resource, durable when it returns."""
        await self.written.create(self.person(self.count()))

    async def prepare_get(self) -> None:
        """Something to read."""
        self._ids = shuffled_forever([pair[0] for pair in await self.fill("read", self.rows)])

    async def get(self, caller: int) -> None:
        """Meta, revision and decoded payload of one resource."""
        await self.read.get(next(self._ids))

    async def prepare_update(self) -> None:
        """Something to change; each caller has resources of its own."""
        if "changed" not in self._held:
            self._current = deque(enumerate(await self.fill("changed", self.rows)))

    async def update(self, caller: int) -> None:
        """A new revision, if the current one is the one that this caller knows."""
        # In whose hands it is, nobody else has it; there are more resources than callers.
        number, (resource_id, known) = self._current.popleft()
        info = await self.changed.update(resource_id, self.person(number), expected_revision_id=known)
        self._current.append((number, (resource_id, info.revision_id)))

    async def prepare_search(self) -> None:
        """Something to find."""
        await self.fill("found", self.search_rows)
        self._ages = shuffled_forever(list(range(self.search_rows // 100)))

    async def search(self, caller: int) -> None:
        """20 of the 100 resources with one value in an indexed field, decoded."""
        age = next(self._ages)
        page: list[Resource[Person]] = await self.found.search(QB["age"] == age, limit=20)
        if len(page) != 20 or page[19].data.age != age:
            raise RuntimeError(f"found {len(page)} instead of 20")

    async def measure_flight(self, callers: int, seconds: float) -> Sample:
        """MiB that so many gets and creates in flight at once need."""
        import anyio

        await self.prepare_get()
        with PeakMemory() as peak:
            async with anyio.create_task_group() as group:
                for number in range(callers):
                    group.start_soon(self.get if number % 2 else self.create, number)
        return {"value": peak.above, "calls": callers}

    async def measure_gate(self, callers: int, seconds: float) -> Sample:
        """Microseconds that entering through the gate adds to a call: the same method with and without it."""
        import time

        await self.prepare_get()
        inner: Any = type(self.read).exists.__wrapped__  # type: ignore[attr-defined]
        outer = self.read.exists
        resource_id = next(self._ids)
        best = {"inner": float("inf"), "outer": float("inf")}
        rounds, calls = 20, 2000
        for _ in range(rounds):
            started = time.perf_counter()
            for _ in range(calls):
                await inner(self.read, resource_id)
            middle = time.perf_counter()
            for _ in range(calls):
                await outer(resource_id)
            ended = time.perf_counter()
            best["inner"] = min(best["inner"], (middle - started) / calls)
            best["outer"] = min(best["outer"], (ended - middle) / calls)
        return {"value": max(0.0, best["outer"] - best["inner"]) * 1e6, "calls": rounds * calls}


class TrioResources(Resources):
    """The same, called from trio."""

    loop: ClassVar[Literal["asyncio", "trio", "blocking"]] = "trio"
