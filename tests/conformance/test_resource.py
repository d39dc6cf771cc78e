"""The contract of `ResourceStore`."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import anyio
import pytest

from specstar.roles import PayloadKey, ResourceStore, StoredPayload
from tests.conformance.harness import Bench
from tests.conformance.samples import HOSTILE_IDS, HOSTILE_MODELS, model

SUITE = "resource"


@pytest.fixture
async def store(bench: Bench) -> ResourceStore:
    return await bench.resource(model())


async def listed(store: ResourceStore) -> dict[PayloadKey, StoredPayload]:
    return {entry.key: entry async for page in store.list() for entry in page}


@pytest.mark.parametrize("size", [0, 1, 100, 65_536, 65_537, 1_000_000])
async def test_a_payload_comes_back(store: ResourceStore, size: int) -> None:
    key, payload = PayloadKey("r", "p"), os.urandom(size)
    await store.put(key, payload)
    assert await store.get(key) == payload


async def test_what_is_not_there_is_none(store: ResourceStore) -> None:
    assert await store.get(PayloadKey("no", "p")) is None
    assert await store.get_many([PayloadKey("no", "p"), PayloadKey("nor", "q")]) == [None, None]
    assert await store.get_many([]) == []
    await store.put_many([])
    await store.delete_many([])
    await store.delete_many([PayloadKey("no", "p")])
    assert await listed(store) == {}


async def test_a_repeated_put_is_harmless(store: ResourceStore) -> None:
    key = PayloadKey("r", "p")
    await store.put(key, b"same")
    await store.put(key, b"same")
    assert await store.get(key) == b"same"
    assert list(await listed(store)) == [key]


async def test_many_are_read_in_the_order_asked(store: ResourceStore) -> None:
    items = [(PayloadKey(f"r{number}", f"p{number}"), os.urandom(number * 7000)) for number in range(20)]
    await store.put_many(items)
    wanted = [items[13][0], PayloadKey("no", "p"), items[0][0], items[13][0], items[19][0]]
    assert await store.get_many(wanted) == [items[13][1], None, items[0][1], items[13][1], items[19][1]]


async def test_deleting_erases_only_what_was_named(store: ResourceStore) -> None:
    items = [(PayloadKey("r", f"p{number}"), bytes(number * 20_000)) for number in range(6)]
    await store.put_many(items)
    await store.delete_many([items[1][0], items[4][0], PayloadKey("r", "missing")])
    found = await store.get_many([key for key, _ in items])
    assert [payload is None for payload in found] == [False, True, False, False, True, False]
    assert set(await listed(store)) == {key for number, (key, _) in enumerate(items) if number not in (1, 4)}


async def test_a_listing_tells_key_size_and_time(store: ResourceStore) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    items = [(PayloadKey(f"r/{number}", f"p{number}"), bytes(number * 30_000)) for number in range(5)]
    await store.put_many(items)
    entries = await listed(store)
    assert {key: entry.size for key, entry in entries.items()} == {key: len(payload) for key, payload in items}
    for entry in entries.values():
        assert before <= entry.modified_time <= datetime.now(UTC) + timedelta(seconds=5)


async def test_a_long_listing_comes_in_pages_without_repeats(store: ResourceStore) -> None:
    keys = [PayloadKey(f"r{number}", "p") for number in range(1200)]
    await store.put_many([(key, b"x") for key in keys])
    seen = [entry.key async for page in store.list() for entry in page]
    assert len(seen) == len(set(seen))
    assert set(seen) == set(keys)


async def test_hostile_ids_are_kept_apart(store: ResourceStore) -> None:
    items = [(PayloadKey(text, "p"), f"resource {number}".encode()) for number, text in enumerate(HOSTILE_IDS)]
    items += [(PayloadKey("r", text), f"payload {number}".encode()) for number, text in enumerate(HOSTILE_IDS)]
    large = [(PayloadKey(text, "large"), f"{number} ".encode() * 20_000) for number, text in enumerate(HOSTILE_IDS)]
    await store.put_many(items)
    await store.put_many(large)
    assert await store.get_many([key for key, _ in items]) == [payload for _, payload in items]
    assert await store.get_many([key for key, _ in large]) == [payload for _, payload in large]
    assert set(await listed(store)) == {key for key, _ in [*items, *large]}


async def test_parts_of_a_key_do_not_run_together(store: ResourceStore) -> None:
    keys = [PayloadKey("a", "b/c"), PayloadKey("a/b", "c"), PayloadKey("ab", "c"), PayloadKey("a", "bc")]
    await store.put_many([(key, repr(key).encode()) for key in keys])
    assert await store.get_many(keys) == [repr(key).encode() for key in keys]


async def test_models_with_similar_names_are_kept_apart(bench: Bench) -> None:
    key = PayloadKey("r", "p")
    stores = [await bench.resource(model(name)) for name in HOSTILE_MODELS]
    for number, store in enumerate(stores):
        await store.put(key, f"{number} ".encode() * 30_000)
    for number, store in enumerate(stores):
        assert await store.get(key) == f"{number} ".encode() * 30_000
        assert list(await listed(store)) == [key]


async def test_hundreds_of_concurrent_calls_each_get_their_own_answer(store: ResourceStore) -> None:
    found: dict[int, bytes | None] = {}
    payloads = {number: os.urandom(50 if number % 10 else 70_000) for number in range(500)}

    async def one(number: int) -> None:
        key = PayloadKey(f"r{number}", "p")
        await store.put(key, payloads[number])
        found[number] = await store.get(key)

    async with anyio.create_task_group() as group:
        for number in payloads:
            group.start_soon(one, number)
    assert found == payloads


async def test_a_cancelled_caller_leaves_its_neighbours_alone(store: ResourceStore) -> None:
    finished: set[int] = set()
    scopes = {number: anyio.CancelScope() for number in range(0, 40, 3)}

    async def one(number: int) -> None:
        with scopes.get(number, anyio.CancelScope()):
            await store.put(PayloadKey("r", f"p{number}"), bytes(number * 3000))
            finished.add(number)

    async with anyio.create_task_group() as group:
        for number in range(40):
            group.start_soon(one, number)
        await anyio.lowlevel.checkpoint()
        for scope in scopes.values():
            scope.cancel()
    assert finished >= {number for number in range(40) if number % 3}
    for number in range(40):
        payload = await store.get(PayloadKey("r", f"p{number}"))
        assert payload in ((bytes(number * 3000),) if number in finished else (bytes(number * 3000), None))


async def test_payloads_outlive_the_connection(bench: Bench, store: ResourceStore) -> None:
    items = [(PayloadKey("r", "small"), b"s"), (PayloadKey("r", "large"), os.urandom(200_000))]
    await store.put_many(items)
    await bench.reopen()
    again = await bench.resource(model())
    expected = [payload for _, payload in items] if bench.case.durable else [None, None]
    assert await again.get_many([key for key, _ in items]) == expected
