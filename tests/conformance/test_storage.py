"""The contract of `Storage`: rows, revisions and payloads together."""

from __future__ import annotations

import enum
import os

import anyio
import msgspec
import pytest

from specstar.errors import DecodeError, DuplicateResourceError, ResourceNotFoundError, RevisionConflictError
from specstar.query import QB, build_query
from specstar.roles import MetaWrite, PayloadKey, ResourceMeta, RevisionStatus, Storage, StoredRevision
from specstar.roles.storage import StorageWrite
from tests.conformance.harness import Bench
from tests.conformance.samples import HOSTILE_IDS, HOSTILE_MODELS, changed, created, model, revised

SUITE = "storage"


@pytest.fixture
async def storage(bench: Bench) -> Storage:
    return await bench.storage(model())


def stored(change: MetaWrite, payload: bytes) -> StoredRevision:
    assert change.revision is not None
    return StoredRevision(change.meta, change.revision, payload)


def key_of(change: MetaWrite) -> PayloadKey:
    assert change.revision is not None
    return PayloadKey(change.meta.resource_id, change.revision.payload_id)


@pytest.mark.parametrize("size", [0, 1, 500, 65_536, 65_537, 2_000_000])
async def test_a_resource_comes_back_whole(storage: Storage, size: int) -> None:
    change, payload = created("r", name="Ann", age=41), os.urandom(size)
    await storage.write(StorageWrite(change, payload))
    assert await storage.read("r") == stored(change, payload)
    assert await storage.read("r", change.meta.current_revision_id) == stored(change, payload)
    assert await storage.read_many(["r"]) == [stored(change, payload)]
    assert await storage.read_meta("r") == change.meta
    assert await storage.read_revision("r") == (change.meta, change.revision)


async def test_what_is_not_there(storage: Storage) -> None:
    assert await storage.read("no") is None
    assert await storage.read("no", "rev") is None
    assert await storage.read_meta("no") is None
    assert await storage.read_revision("no") is None
    assert await storage.read_many(["no", "nor"]) == [None, None]
    assert await storage.read_many([]) == []
    assert await storage.list_revisions("no") == []
    assert await storage.erase("no") is False
    assert await storage.write_many([]) == []
    assert await storage.search(build_query(None, fields=model().indexed_fields)) == []


async def test_every_revision_keeps_its_payload(storage: Storage) -> None:
    chain = [created("r")]
    payloads = [b"first"]
    for number in range(1, 6):
        chain.append(revised(chain[-1]))
        payloads.append(os.urandom(number * 30_000))
    for change, payload in zip(chain, payloads, strict=True):
        await storage.write(StorageWrite(change, payload))
    last = chain[-1].meta
    for change, payload in zip(chain, payloads, strict=True):
        assert change.revision is not None
        assert await storage.read("r", change.revision.revision_id) == StoredRevision(last, change.revision, payload)
    assert await storage.read("r") == stored(chain[-1], payloads[-1])
    assert await storage.list_revisions("r") == [change.revision for change in chain]


async def test_an_unknown_revision_gives_the_bare_row(storage: Storage) -> None:
    change = created("r")
    await storage.write(StorageWrite(change, b"x"))
    found = await storage.read("r", "no such revision")
    assert isinstance(found, ResourceMeta)
    assert found == change.meta
    assert await storage.read_revision("r", "no such revision") == (change.meta, None)


@pytest.mark.parametrize("size", [10, 100_000])
async def test_refused_writes_change_nothing(storage: Storage, size: int) -> None:
    first, payload = created("r"), os.urandom(size)
    await storage.write(StorageWrite(first, payload))
    with pytest.raises(DuplicateResourceError):
        await storage.write(StorageWrite(created("r"), os.urandom(size)))
    second = revised(first)
    await storage.write(StorageWrite(second, payload))
    with pytest.raises(RevisionConflictError) as caught:
        await storage.write(StorageWrite(revised(first), os.urandom(size)))
    assert caught.value.actual_revision_id == second.meta.current_revision_id
    with pytest.raises(ResourceNotFoundError):
        await storage.write(StorageWrite(revised(created("missing")), os.urandom(size)))
    assert await storage.read("r") == stored(second, payload)
    assert await storage.list_revisions("r") == [first.revision, second.revision]
    assert await storage.read("missing") is None


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_draft_is_rewritten_and_then_made_stable(storage: Storage, size: int) -> None:
    first, bytes_1, bytes_2 = created("r"), os.urandom(size), os.urandom(size)
    assert first.revision is not None
    draft = msgspec.structs.replace(first.revision, status=RevisionStatus.draft)
    await storage.write(StorageWrite(first._replace(revision=draft), bytes_1))
    rewritten = msgspec.structs.replace(draft, payload_id="p-other", size=size)
    second = MetaWrite(msgspec.structs.replace(first.meta, version=2), rewritten, 1)
    await storage.write(StorageWrite(second, bytes_2))
    assert await storage.read("r") == StoredRevision(second.meta, rewritten, bytes_2)
    # The record alone changes; the payload stays.
    final = msgspec.structs.replace(rewritten, status=RevisionStatus.stable)
    third = MetaWrite(msgspec.structs.replace(first.meta, version=3), final, 2)
    await storage.write(StorageWrite(third, None))
    assert await storage.read("r") == StoredRevision(third.meta, final, bytes_2)
    assert await storage.list_revisions("r") == [final]


async def test_the_row_alone_can_change(storage: Storage) -> None:
    first = created("r")
    second = revised(first)
    await storage.write(StorageWrite(first, b"one"))
    await storage.write(StorageWrite(second, b"two"))
    back = changed(second, current_revision_id=first.meta.current_revision_id, is_deleted=True)
    await storage.write(StorageWrite(back, None))
    assert first.revision is not None
    assert await storage.read("r") == StoredRevision(back.meta, first.revision, b"one")


async def test_write_many_answers_for_each(storage: Storage) -> None:
    old = created("old")
    await storage.write(StorageWrite(old, b"old"))
    big = os.urandom(100_000)
    changes = [created("new"), created("old"), revised(created("missing")), revised(old)]
    results = await storage.write_many([StorageWrite(change, big) for change in changes])
    assert results[0] is None
    assert isinstance(results[1], DuplicateResourceError)
    assert isinstance(results[2], ResourceNotFoundError)
    assert results[3] is None
    assert await storage.read_many(["new", "missing", "old"]) == [
        stored(changes[0], big),
        None,
        stored(changes[3], big),
    ]


@pytest.mark.parametrize("size", [10, 100_000])
async def test_erasing_removes_everything(storage: Storage, size: int) -> None:
    first = created("r")
    second = revised(first)
    await storage.write(StorageWrite(first, os.urandom(size)))
    await storage.write(StorageWrite(second, os.urandom(size)))
    with pytest.raises(RevisionConflictError):
        await storage.erase("r", expected_version=1)
    assert await storage.erase("r", expected_version=2) is True
    assert await storage.read("r") is None
    assert await storage.list_revisions("r") == []
    assert await storage.erase("r") is False
    left = [entry.key async for page in storage.list_payloads() for entry in page]
    assert left == []


async def test_searches_give_whole_resources(storage: Storage) -> None:
    fields = model().indexed_fields
    changes = [created(f"s{number}", age=number) for number in range(10)]
    payloads = [os.urandom(number * 20_000) for number in range(10)]
    writes = [StorageWrite(change, payload) for change, payload in zip(changes, payloads, strict=True)]
    assert await storage.write_many(writes) == [None] * 10
    query = build_query(QB["age"] >= 3, fields=fields, sort=["-age"], limit=4)
    expected = [stored(changes[number], payloads[number]) for number in (9, 8, 7, 6)]
    assert await storage.search(query) == expected
    assert await storage.search_meta(query) == [item.meta for item in expected]
    assert await storage.count(query.condition) == 7
    assert await storage.count() == 10
    assert await storage.explain(query)


async def test_unreferenced_payloads_are_told_from_referenced_ones(storage: Storage) -> None:
    first = created("r")
    second = revised(first)
    await storage.write(StorageWrite(first, b"1"))
    await storage.write(StorageWrite(second, os.urandom(100_000)))
    unknown = PayloadKey("r", "p-unknown")
    assert await storage.unreferenced([key_of(first), unknown, key_of(second)]) == [unknown]
    assert await storage.unreferenced([]) == []
    # What a killed writer left is listed; what the rows point to may be.
    for entry in [entry async for page in storage.list_payloads() for entry in page]:
        assert entry.key in (key_of(first), key_of(second))
    await storage.drop_payloads([unknown])
    assert await storage.read("r") == stored(second, (await storage.read_many(["r"]))[0].payload)  # type: ignore[union-attr]


async def test_hostile_ids_are_kept_apart(storage: Storage) -> None:
    writes = [
        StorageWrite(created(text), f"{number} ".encode() * (1 if number % 2 else 40_000))
        for number, text in enumerate(HOSTILE_IDS)
    ]
    assert await storage.write_many(writes) == [None] * len(writes)
    found = await storage.read_many(HOSTILE_IDS)
    assert found == [stored(item.change, item.payload or b"") for item in writes]


async def test_models_with_similar_names_are_kept_apart(bench: Bench) -> None:
    stores = [await bench.storage(model(name)) for name in HOSTILE_MODELS]
    written = []
    for number, store in enumerate(stores):
        change, payload = created("same id"), f"{number} ".encode() * (1 if number % 2 else 40_000)
        await store.write(StorageWrite(change, payload))
        written.append(stored(change, payload))
    for store, expected in zip(stores, written, strict=True):
        assert await store.read("same id") == expected


async def test_hundreds_of_concurrent_calls_each_get_their_own_answer(storage: Storage) -> None:
    found: dict[int, object] = {}
    changes = [created(f"c{number}") for number in range(500)]
    payloads = [os.urandom(20 if number % 20 else 80_000) for number in range(500)]

    async def one(number: int) -> None:
        await storage.write(StorageWrite(changes[number], payloads[number]))
        found[number] = await storage.read(f"c{number}")

    async with anyio.create_task_group() as group:
        for number in range(500):
            group.start_soon(one, number)
    assert found == {number: stored(changes[number], payloads[number]) for number in range(500)}


async def test_a_cancelled_caller_leaves_whole_resources_or_none(storage: Storage) -> None:
    changes = [created(f"n{number}") for number in range(60)]
    payloads = [os.urandom(100 if number % 4 else 90_000) for number in range(60)]
    finished: set[int] = set()
    scopes = {number: anyio.CancelScope() for number in range(0, 60, 3)}

    async def one(number: int) -> None:
        with scopes.get(number, anyio.CancelScope()):
            await storage.write(StorageWrite(changes[number], payloads[number]))
            finished.add(number)

    async with anyio.create_task_group() as group:
        for number in range(60):
            group.start_soon(one, number)
        await anyio.lowlevel.checkpoint()
        for scope in scopes.values():
            scope.cancel()
    assert finished >= {number for number in range(60) if number % 3}
    for number in range(60):
        whole = stored(changes[number], payloads[number])
        assert await storage.read(f"n{number}") in ((whole,) if number in finished else (whole, None))


async def test_resources_outlive_the_connection(bench: Bench, storage: Storage) -> None:
    first = created("r")
    second = revised(first)
    await storage.write(StorageWrite(first, b"small"))
    await storage.write(StorageWrite(second, os.urandom(100_000)))
    before = await storage.read("r")
    await bench.reopen()
    again = await bench.storage(model())
    assert await again.read("r") == (before if bench.case.durable else None)


async def test_a_row_whose_revision_is_gone_is_named(storage: Storage) -> None:
    whole = created("whole")
    await storage.write(StorageWrite(whole, b"payload"))
    await storage.write(StorageWrite(MetaWrite(created("broken").meta, None, None), None))
    assert [row is not None for row in await storage.read_many(["whole", "broken"])] == [True, False]
    with pytest.raises(DecodeError, match="broken"):
        await storage.find(build_query(None))
    assert await storage.erase("broken")
    assert [found.meta.resource_id for found in (await storage.find(build_query(None))).resources] == ["whole"]


class Newer(enum.StrEnum):
    """The status of a revision in some later version."""

    archived = "archived"


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_revision_that_this_version_does_not_know_hides_no_others(
    bench: Bench, storage: Storage, size: int
) -> None:
    if not bench.case.durable:
        return  # no other version ever wrote there
    ids = [f"r{number}" for number in range(6)]
    changes = [created(resource_id) for resource_id in ids]
    assert changes[1].revision is not None
    changes[1] = changes[1]._replace(revision=msgspec.structs.replace(changes[1].revision, status=Newer.archived))
    for change in changes:
        await storage.write(StorageWrite(change, b"x" * size))
    await bench.reopen()
    storage = await bench.storage(model())
    payloads = [b"" if resource_id == "r1" else b"x" * size for resource_id in ids]
    expected = [(change.meta, payload) for change, payload in zip(changes, payloads, strict=True)]
    for found, wanted in (
        (await storage.read_many(ids), expected),
        (await storage.read_many(["r1"]), expected[1:2]),
        ((await storage.find(build_query(None, fields=model().indexed_fields))).resources, expected),
    ):
        assert [each and (each.meta, each.payload) for each in found] == wanted
        assert all(each and each.revision.revision_id == each.meta.current_revision_id for each in found)
    with pytest.raises(DecodeError, match="r1"):
        await storage.read("r1")
    assert await storage.read_meta("r1") == changes[1].meta
