"""specstar from threads: through the blocking facade, and through `run_coroutine_threadsafe` by hand."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import Any, ClassVar, Literal

from msgspec import convert

from benchmarks.contestant import Contestant, distributions
from benchmarks.contestants.filling import filled_in
from benchmarks.contestants.resources import Person
from benchmarks.sample import person, shuffled_forever
from specstar import SpecStar as AsyncSpecStar
from specstar.sync import SpecStar

__all__ = ["BlockingResources", "Threadsafe"]

_ROWS = 2000


class BlockingResources(Contestant):
    """`from specstar.sync import SpecStar`, from as many threads as there are callers."""

    loop: ClassVar[Literal["asyncio", "trio", "blocking"]] = "blocking"

    def start(self) -> None:
        if self.setting.get("one_core") and sys.platform == "linux":
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        self.spec = SpecStar()
        self.people = self.spec.add_model(Person, name="people", indexed_fields=["age", "name"])
        self.spec.configure(backend=filled_in(self.setting["backend"], self.setting))
        self._ids: list[str] = []
        self._lock = threading.Lock()

    async def close(self) -> None:
        await asyncio.to_thread(self.spec.close)

    def versions(self) -> dict[str, str]:
        return distributions("specstar")

    def _person(self, number: int) -> Person:
        return convert(person(number, self.payload), Person)

    async def prepare_get(self) -> None:
        """Something to read."""
        if not self._ids:
            people = [self._person(number) for number in range(_ROWS)]
            made = await asyncio.to_thread(self.people.create_many, people)
            self._ids = [info.resource_id for info in made]
        self._next = shuffled_forever(self._ids)

    def _next_id(self) -> str:
        with self._lock:
            found: str = next(self._next)
        return found

    async def measure(self, operation: str, callers: int, seconds: float) -> Any:
        """Off the event loop of this process: inside one the facade refuses to block."""
        prepare = getattr(self, f"prepare_{operation}", None)
        if prepare is not None:
            await prepare()
        return await asyncio.to_thread(self._drive, operation, callers, seconds)

    def _drive(self, operation: str, callers: int, seconds: float) -> Any:
        from benchmarks.contestant import run_threads

        call = getattr(self, operation)
        run_threads(call, callers, min(seconds, 0.25))
        return run_threads(call, callers, seconds)

    def create(self, caller: int) -> None:
        """One new resource."""
        self.people.create(self._person(self.count()))

    def get(self, caller: int) -> None:
        """One resource."""
        self.people.get(self._next_id())


class Threadsafe(BlockingResources):
    """The asynchronous specstar on an event loop in a thread; each call is `run_coroutine_threadsafe(...).result()`."""

    def start(self) -> None:
        self._lock = threading.Lock()
        self._ids = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._spec = AsyncSpecStar()
        self._people = self._spec.add_model(Person, name="people", indexed_fields=["age", "name"])
        self._spec.configure(backend=filled_in(self.setting["backend"], self.setting))

    async def close(self) -> None:
        await asyncio.to_thread(self._call, self._spec.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def prepare_get(self) -> None:
        """Something to read."""
        if not self._ids:
            people = [self._person(number) for number in range(_ROWS)]
            made = await asyncio.to_thread(self._call, self._people.create_many(people))
            self._ids = [info.resource_id for info in made]
        self._next = shuffled_forever(self._ids)

    def create(self, caller: int) -> None:
        """One new resource."""
        self._call(self._people.create(self._person(self.count())))

    def get(self, caller: int) -> None:
        """One resource."""
        self._call(self._people.get(self._next_id()))
