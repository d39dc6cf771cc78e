"""specstar's resources with payloads or meta on S3 and the other role in memory, so that one is measured at a time."""

from __future__ import annotations

from msgspec import convert

from benchmarks.contestant import Contestant, distributions
from benchmarks.contestants.filling import filled_in
from benchmarks.contestants.resources import Person
from benchmarks.sample import person, shuffled_forever
from specstar import SpecStar

__all__ = ["S3Resources"]


class S3Resources(Contestant):
    """`create` and `get` through the public manager; `setting["backend"]` says which role is on S3."""

    def start(self) -> None:
        self.spec = SpecStar()
        self.people = self.spec.add_model(Person, name="people", indexed_fields=["age", "name"])
        self.spec.configure(backend=filled_in(self.setting["backend"], self.setting))
        self.rows: int = self.setting.get("rows", 256)
        self._ids: list[str] = []

    async def close(self) -> None:
        await self.spec.aclose()

    def versions(self) -> dict[str, str]:
        return distributions("specstar", "aioboto3", "aiobotocore")

    def _person(self) -> Person:
        return convert(person(self.count(), self.payload), Person)

    async def put(self, caller: int) -> None:
        """One new resource."""
        await self.people.create(self._person())

    async def meta_write(self, caller: int) -> None:
        """The same, where meta is on S3."""
        await self.people.create(self._person())

    async def prepare_get(self) -> None:
        """Something to read."""
        if not self._ids:
            made = await self.people.create_many([self._person() for _ in range(self.rows)])
            self._ids = [info.resource_id for info in made]
        self._next = shuffled_forever(self._ids)

    async def get(self, caller: int) -> None:
        """One resource, decoded."""
        await self.people.get(next(self._next))
