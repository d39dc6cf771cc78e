"""specstar 0.12.3, the synchronous package, doing the same: one thread, its only way."""

from __future__ import annotations

import importlib
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from msgspec import Struct, convert

from benchmarks.contestant import Contestant, distributions
from benchmarks.contestants.filling import filled_in
from benchmarks.sample import person, shuffled_forever

__all__ = ["OldSpecstar"]


class Person(Struct):
    """One resource, of which `age` and `name` can be searched."""

    name: str
    age: int
    city: str
    note: str


class OldSpecstar(Contestant):
    """`setting["backend"]` is the configuration, which has the same form."""

    loop: ClassVar[Literal["asyncio", "trio", "blocking"]] = "blocking"
    max_callers: ClassVar[int | None] = 1

    def start(self) -> None:
        # By name: type checkers would find the other specstar.
        specstar: Any = importlib.import_module("specstar")
        self.field = specstar.QB
        spec = specstar.SpecStar()
        spec.configure(backend=filled_in(self.setting["backend"], self.setting), default_user="bench")
        self.managers: dict[str, Any] = {}
        for name in ("written", "read", "changed", "found"):
            spec.add_model(Person, name=name, indexed_fields=[("age", int), ("name", str)])
            self.managers[name] = spec.get_resource_manager(name)
        self.rows: int = self.setting.get("rows", 10_000)
        self.search_rows: int = self.setting.get("search_rows", 10_000)
        self._held: dict[str, list[Any]] = {}

    def versions(self) -> dict[str, str]:
        return distributions("specstar", *self.setting.get("distributions", ()))

    def person(self, number: int) -> Person:
        """The value of resource `number`."""
        return convert(person(number, self.payload), Person)

    def fill(self, name: str, rows: int) -> list[Any]:
        """Make sure that a model has its rows."""
        if name not in self._held:
            now = datetime.now(UTC)
            create = self.managers[name].create
            self._held[name] = [create(self.person(i), now=now) for i in range(rows)]
        return self._held[name]

    def create(self, caller: int) -> None:
        """One new resource."""
        self.managers["written"].create(self.person(self.count()), now=datetime.now(UTC))

    async def prepare_get(self) -> None:
        """Something to read."""
        self._ids = shuffled_forever([info.resource_id for info in self.fill("read", self.rows)])

    def get(self, caller: int) -> None:
        """Revision and decoded payload of one resource."""
        self.managers["read"].get(next(self._ids))

    async def prepare_update(self) -> None:
        """Something to change."""
        self.fill("changed", self.rows)

    def update(self, caller: int) -> None:
        """A new revision. It has no condition; being alone, it needs none."""
        number = self.count() % self.rows
        held = self._held["changed"][number]
        self.managers["changed"].update(held.resource_id, self.person(number), now=datetime.now(UTC))

    async def prepare_search(self) -> None:
        """Something to find."""
        self.fill("found", self.search_rows)
        self._ages = shuffled_forever(list(range(self.search_rows // 100)))

    def search(self, caller: int) -> None:
        """20 of the 100 resources with one value in an indexed field, decoded."""
        query = (self.field["age"] == next(self._ages)).limit(20).build()
        page = self.managers["found"].list_resources(query)
        if len(page) != 20:
            raise RuntimeError(f"found {len(page)} instead of 20")
