"""What is particular to memory: no waiting, yet no starving; an index that follows; data that outlives its loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from specstar.backends.memory.connection import MemoryConnection
from specstar.backends.memory.model import SearchIndex
from specstar.backends.memory.options import MemoryOptions
from specstar.backends.memory.provider import MemoryProvider
from specstar.backends.provider import BackendContext
from specstar.errors import BackendError, BackendUnavailable, RevisionConflictError
from specstar.query import QB, build_query
from specstar.roles import Storage
from specstar.roles.storage import StorageWrite
from specstar.runtime import Gate
from tests.conformance.samples import created, model, revised

FIELDS = model().indexed_fields


class Place:
    """A memory and a storage in it."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        provider = MemoryProvider()
        lazy = gate.connections.share("memory", lambda: provider.connect(MemoryOptions()), "memory")
        self.context: BackendContext[MemoryOptions, MemoryConnection] = BackendContext(
            home=gate.settle(), options=MemoryOptions(), connection=lazy
        )
        storage = provider.combined_storage(self.context, self.context, model())
        assert storage is not None
        self.storage: Storage = storage

    async def found(self, condition: Any = None, **options: Any) -> list[str]:
        rows = await self.storage.search(build_query(condition, fields=FIELDS, **options))
        return [row.meta.resource_id for row in rows]


@pytest.fixture
async def place(anyio_backend: object) -> AsyncIterator[Place]:
    place = Place(Gate())
    yield place
    await place.gate.aclose()


async def test_calls_take_effect_before_they_first_wait(place: Place) -> None:
    await place.storage.write(StorageWrite(created("first"), b"1"))
    change = created("inline", age=1)
    call = place.storage.write(StorageWrite(change, b"2"))
    with pytest.raises(StopIteration):
        call.send(None)
    assert await place.storage.read_meta("inline") == change.meta


async def test_busy_callers_leave_room_for_others(place: Place) -> None:
    turns = 0
    stop = False

    async def other() -> None:
        nonlocal turns
        while not stop:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        for number in range(2000):
            await place.storage.write(StorageWrite(created(f"r{number}"), b"x"))
            await place.storage.read(f"r{number}")
        stop = True
    assert turns >= 2000 * 2 // 64


async def test_an_endless_loop_of_calls_can_be_cancelled(place: Place) -> None:
    with anyio.move_on_after(0.05) as scope:
        while True:
            await place.storage.read("missing")
    assert scope.cancelled_caught


async def test_the_index_is_made_by_the_first_search_and_then_follows(place: Place) -> None:
    connection = await place.context.connection.get()
    memory = connection.model(model())
    last = created("r", age=0)
    await place.storage.write(StorageWrite(last, b"0"))
    assert memory.index is None
    assert await place.found(QB["age"] == 0) == ["r"]
    assert memory.index is not None
    for number in range(1, 20):
        last = revised(last, age=number)
        await place.storage.write(StorageWrite(last, b"x"))
        if number % 3 == 0:
            assert await place.found(QB["age"] == number) == ["r"]
            assert await place.found(QB["age"] == number - 1) == []
    await place.storage.erase("r")
    assert await place.found() == []


async def test_a_search_that_fails_half_way_rebuilds_the_index(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        await place.storage.write(StorageWrite(created(f"r{number}", age=number), b"x"))
    with monkeypatch.context() as patch:

        def fail(self: SearchIndex, changed: Any) -> None:
            raise BackendError("no memory")

        patch.setattr(SearchIndex, "update", fail)
        with pytest.raises(BackendError):
            await place.found(QB["age"] == 3)
    assert await place.found(QB["age"] == 3) == ["r3"]


async def test_a_result_is_what_matched_even_if_it_changes_meanwhile(place: Place) -> None:
    changes = [created(f"r{number:03d}", age=1) for number in range(200)]
    await place.storage.write_many([StorageWrite(change, b"old") for change in changes])
    results: list[Any] = []

    async def search() -> None:
        results.extend(await place.storage.search(build_query(QB["age"] == 1, fields=FIELDS)))

    async def change() -> None:
        for before in changes:
            await place.storage.write(StorageWrite(revised(before, age=2), b"new"))

    async with anyio.create_task_group() as group:
        group.start_soon(search)
        group.start_soon(change)
    for row in results:
        assert (row.meta.indexed_data["age"], row.payload) == (1, b"old")


async def test_a_conflict_changes_nothing(place: Place) -> None:
    first = created("r", age=1)
    await place.storage.write(StorageWrite(first, b"1"))
    await place.storage.write(StorageWrite(revised(first, age=2), b"2"))
    before = await place.storage.read("r")
    with pytest.raises(RevisionConflictError):
        await place.storage.write(StorageWrite(revised(first, age=3), b"3"))
    assert await place.storage.read("r") == before
    assert await place.found(QB["age"] == 3) == []


async def test_closing_drops_the_data(place: Place) -> None:
    await place.storage.write(StorageWrite(created("r"), b"1"))
    await place.context.connection.aclose(1)
    with pytest.raises(BackendUnavailable):
        await place.storage.read("r")


async def test_the_connection_tells_what_it_holds(place: Place) -> None:
    await place.storage.write(StorageWrite(created("r"), b"1"))
    info = await (await place.context.connection.get()).ping()
    assert "1 resources of 1 models" in info.detail


def test_data_outlives_its_event_loop() -> None:
    gate = Gate()
    change = created("kept", age=7)

    async def first() -> None:
        place = Place(gate)
        await place.storage.write(StorageWrite(change, b"1"))
        assert await place.found(QB["age"] == 7) == ["kept"]

    async def second() -> None:
        place = Place(gate)
        assert await place.found(QB["age"] == 7) == ["kept"]
        await place.storage.write(StorageWrite(revised(change, age=8), b"2"))
        assert await place.found(QB["age"] == 8) == ["kept"]
        await gate.aclose()

    asyncio.run(first())
    asyncio.run(second())


def test_all_roles_share_one_memory() -> None:
    provider = MemoryProvider()
    assert provider.connection_key(MemoryOptions()) == provider.connection_key(MemoryOptions(encoding="msgpack"))  # type: ignore[arg-type]
