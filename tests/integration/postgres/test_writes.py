"""Writes that travel together: each caller gets its own outcome."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import asyncpg
import msgspec
import pytest

from specstar.backends.postgres.reader import Partial, largest_payload
from specstar.backends.postgres.storage import PostgresStorage
from specstar.errors import (
    BackendUnavailable,
    DuplicateResourceError,
    InvalidInputError,
    LimitExceededError,
    ResourceNotFoundError,
    RevisionConflictError,
)
from specstar.query import build_query
from specstar.roles import MetaWrite, PayloadKey, RevisionStatus, Storage, StoredRevision
from specstar.roles.storage import StorageWrite
from tests.integration.postgres.rig import Rig, admin, advance_of, change_of, ids, new, open_rig, touched


def flushes(storage: Any) -> int:
    return int(storage._writer._batcher.counts.requests)


async def payload_of(storage: Storage, resource_id: str) -> bytes | None:
    found = await storage.read(resource_id)
    return found.payload if isinstance(found, StoredRevision) else None


async def test_callers_that_wait_together_share_statements(rig: Rig) -> None:
    storage = rig.storage()
    await asyncio.gather(*(storage.write(new(name)) for name in ids("r", 600)))
    assert flushes(storage) <= 6
    assert [entry is not None for entry in await storage.read_many(list(ids("r", 600)))] == [True] * 600


async def test_neighbours_of_a_conflict_stay_acknowledged_when_its_reason_cannot_be_read(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = rig.storage()
    first, second = new("first"), new("second")
    await storage.write_many([first, second])
    await storage.write(change_of(second, b"other"))
    connection = await rig.connection()

    async def unreadable(*_: Any, **__: Any) -> Any:
        raise BackendUnavailable("lost", backend="postgres")

    monkeypatch.setattr(connection, "fetch", unreadable)
    outcomes = await storage.write_many([change_of(first, b"1"), change_of(second, b"2")])
    monkeypatch.undo()
    assert [type(outcome) for outcome in outcomes] == [type(None), BackendUnavailable]
    assert [await payload_of(storage, name) for name in ("first", "second")] == [b"1", b"other"]


async def test_each_caller_gets_its_own_outcome(rig: Rig) -> None:
    storage = rig.storage()
    old = new("old")
    await storage.write(old)
    first = change_of(old, b"1")
    await storage.write(first)
    stale = change_of(old, b"stale")
    missing = change_of(new("missing"), b"?")
    outcomes = await asyncio.gather(
        storage.write(new("fresh", b"fresh")),
        storage.write(new("old")),
        storage.write(stale),
        storage.write(missing),
        storage.write(new("nul", b"x", name="a\0b")),
        storage.write(new("good", b"good", name="ab")),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [
        type(None),
        DuplicateResourceError,
        RevisionConflictError,
        ResourceNotFoundError,
        InvalidInputError,
        type(None),
    ]
    conflict = outcomes[2]
    assert isinstance(conflict, RevisionConflictError)
    assert conflict.actual_revision_id == first.change.meta.current_revision_id
    assert [await payload_of(storage, name) for name in ("fresh", "old", "good", "nul")] == [
        b"fresh",
        b"1",
        b"good",
        None,
    ]


async def test_a_value_that_the_server_refuses_fails_only_its_caller(rig: Rig) -> None:
    storage = rig.storage()
    writes = [new(name, b"%d" % number) for number, name in enumerate(ids("r", 50))]
    spoilt = msgspec.structs.replace(writes[17].change.meta, created_by="nul\0")
    writes[17] = StorageWrite(MetaWrite(spoilt, writes[17].change.revision, None), b"17")
    torn = msgspec.structs.replace(writes[31].change.meta, updated_by="\ud800")
    writes[31] = StorageWrite(MetaWrite(torn, writes[31].change.revision, None), b"31")
    outcomes = await asyncio.gather(*(storage.write(item) for item in writes), return_exceptions=True)
    assert [position for position, outcome in enumerate(outcomes) if outcome is not None] == [17, 31]
    assert all(isinstance(outcomes[position], InvalidInputError) for position in (17, 31))
    found = await storage.read_many(list(ids("r", 50)))
    assert [position for position, entry in enumerate(found) if entry is None] == [17, 31]


async def test_write_many_gives_one_entry_a_change(rig: Rig) -> None:
    storage = rig.storage()
    await storage.write(new("r00003"))
    writes = [new(name) for name in ids("r", 700)] + [new("x", a=float("nan")), new("bad", a="\0"), new("r00005")]
    outcomes = await storage.write_many(writes)
    failed = {position: outcome for position, outcome in enumerate(outcomes) if outcome is not None}
    assert list(failed) == [3, 701, 702]
    assert isinstance(failed[3], DuplicateResourceError)
    assert isinstance(failed[701], InvalidInputError)
    assert isinstance(failed[702], DuplicateResourceError)
    assert await storage.write_many([]) == []


@pytest.mark.parametrize("size", [0, 1, 32 << 10, (32 << 10) + 1, 10_000_000])
async def test_payloads_of_any_size(rig: Rig, size: int) -> None:
    storage = rig.storage()
    item = new("big", os.urandom(size))
    others = [new(name, b"small") for name in ids("s", 20)]
    await asyncio.gather(storage.write(item), *(storage.write(other) for other in others))
    reads = await asyncio.gather(
        storage.read("big"), *(storage.read(other.change.meta.resource_id) for other in others)
    )
    assert [entry.payload for entry in reads if isinstance(entry, StoredRevision)] == [item.payload] + [b"small"] * 20
    many = await storage.read_many([*ids("s", 20), "big"])
    assert [entry.payload for entry in many if entry] == [b"small"] * 20 + [item.payload]


async def test_what_the_server_cannot_take_is_refused_before_it_is_sent(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specstar.backends.postgres.writes.LARGEST", 5000)
    storage: Any = rig.storage()
    store = rig.resource()
    first = new("r", b"x" * 4000)
    await storage.write(first)
    with pytest.raises(LimitExceededError, match="at most 5000"):
        await storage.write(new("large", b"x" * 5000))
    with pytest.raises(LimitExceededError):
        await storage.advance(advance_of(first, b"x" * 5000))
    outcomes = await storage.write_many([new("small"), new("large", b"x" * 5000)])
    assert [type(outcome) for outcome in outcomes] == [type(None), LimitExceededError]
    with pytest.raises(LimitExceededError):
        await store.put(PayloadKey("r", "p"), b"x" * 5000)
    with pytest.raises(LimitExceededError):
        await store.put_many([(PayloadKey("r", "p"), b"x"), (PayloadKey("r", "q"), b"x" * 5000)])
    assert await store.get(PayloadKey("r", "p")) is None


async def test_a_large_payload_that_is_rewritten_while_it_is_read(rig: Rig) -> None:
    storage = rig.storage()
    item = new("big", os.urandom(9 << 20))
    await storage.write(item)
    again = change_of(item, os.urandom(9 << 20))
    found, _ = await asyncio.gather(storage.read("big"), storage.write(again))
    assert isinstance(found, StoredRevision)
    assert found.payload in {item.payload, again.payload}


async def test_a_draft_is_rewritten_and_keeps_its_payload_when_only_its_status_changes(rig: Rig) -> None:
    storage = rig.storage()
    item = new("r", b"draft")
    assert item.change.revision is not None
    draft = msgspec.structs.replace(item.change.revision, status=RevisionStatus.draft)
    await storage.write(StorageWrite(MetaWrite(item.change.meta, draft, None), b"draft"))
    row = msgspec.structs.replace(item.change.meta, version=2)
    stable = msgspec.structs.replace(draft, status=RevisionStatus.stable)
    await storage.write(StorageWrite(MetaWrite(row, stable, 1), None))
    assert await storage.read("r") == StoredRevision(row, stable, b"draft")
    third = msgspec.structs.replace(row, version=3)
    rewritten = msgspec.structs.replace(stable, payload_id="other", status=RevisionStatus.draft)
    await storage.write(StorageWrite(MetaWrite(third, rewritten, 2), b"new"))
    assert await storage.read("r") == StoredRevision(third, rewritten, b"new")
    assert len(await storage.list_revisions("r")) == 1


async def test_a_change_of_the_row_alone_keeps_the_revisions(rig: Rig) -> None:
    storage = rig.storage()
    item = new("r", b"1")
    await storage.write(item)
    deleted = touched(item, is_deleted=True)
    await storage.write(deleted)
    assert await storage.read_meta("r") == deleted.change.meta
    assert [info.revision_id for info in await storage.list_revisions("r")] == [item.change.meta.current_revision_id]


async def test_writers_of_one_resource_in_two_processes_never_both_win(postgres_database: str) -> None:
    async with open_rig(postgres_database) as here, open_rig(postgres_database) as there:
        stores = here.storage(), there.storage()
        current = {name: new(name) for name in ids("r", 20)}
        for item in current.values():
            await stores[0].write(item)
        for _ in range(10):
            attempts = {name: [change_of(item, b"%d" % side) for side in (0, 1)] for name, item in current.items()}
            # In opposite orders, which would deadlock if rows were locked as they come.
            names = list(attempts)
            outcomes = await asyncio.gather(
                *(stores[0].write(attempts[name][0]) for name in names),
                *(stores[1].write(attempts[name][1]) for name in reversed(names)),
                return_exceptions=True,
            )
            won = [outcome is None for outcome in outcomes]
            for position, name in enumerate(names):
                sides = won[position], won[len(names) + len(names) - 1 - position]
                assert sorted(sides) == [False, True]
                current[name] = attempts[name][0 if sides[0] else 1]
            assert all(isinstance(outcome, RevisionConflictError) for outcome in outcomes if outcome is not None)
        for name, item in current.items():
            assert await payload_of(stores[1], name) == item.payload


async def test_a_deadlock_with_a_stranger_is_survived(rig: Rig, postgres_database: str) -> None:
    storage = rig.storage()
    items = [new("a"), new("b")]
    for item in items:
        await storage.write(item)
    async with admin(postgres_database) as stranger:  # noqa: SIM117  the connection outlives its transaction
        async with stranger.transaction():
            await stranger.execute("""UPDATE "User_meta" SET version = version WHERE resource_id = 'b'""")
            together = asyncio.gather(*(storage.write(change_of(item)) for item in items), return_exceptions=True)
            await asyncio.sleep(0.3)
            # The batch holds a and waits for b: this closes the circle, and one of both is rolled back.
            try:
                await stranger.execute("""UPDATE "User_meta" SET version = version WHERE resource_id = 'a'""")
            except asyncpg.DeadlockDetectedError:
                await asyncio.sleep(0)
    assert await together == [None, None]


async def test_erasing(rig: Rig) -> None:
    storage, meta = rig.storage(), rig.meta("Other")
    item = new("r", b"1")
    await storage.write(item)
    await storage.write(change_of(item))
    with pytest.raises(RevisionConflictError):
        await storage.erase("r", expected_version=1)
    assert await storage.erase("r", expected_version=2) is True
    assert await storage.erase("r") is False
    assert await storage.list_revisions("r") == []
    await meta.write(item.change)
    assert [info.revision_id for info in await meta.erase("r") or ()] == [item.change.meta.current_revision_id]
    assert await meta.erase("r") is None


@pytest.mark.parametrize("role", ["storage", "meta"])
async def test_erasures_that_wait_together_share_statements_and_each_gets_its_own_outcome(rig: Rig, role: str) -> None:
    store: Any = rig.storage() if role == "storage" else rig.meta()
    items = {name: new(name) for name in ids("r", 300)}
    await store.write_many([item if role == "storage" else item.change for item in items.values()])
    expected: dict[str, int | None] = dict.fromkeys(items, 1)
    stale, unconditional = list(items)[50:60], list(items)[100:120]
    expected |= dict.fromkeys(stale, 2) | dict.fromkeys(unconditional) | {"absent": None, "absent too": 1, "nul\0": 1}
    outcomes: dict[str, Any] = dict(
        zip(
            expected,
            await asyncio.gather(
                *(store.erase(name, expected_version=version) for name, version in expected.items()),
                return_exceptions=True,
            ),
            strict=True,
        )
    )
    assert store._eraser._batcher.counts.requests <= 8
    assert isinstance(outcomes.pop("nul\0"), InvalidInputError)
    for name in stale:
        conflict = outcomes.pop(name)
        assert isinstance(conflict, RevisionConflictError)
        assert conflict.actual_revision_id == items[name].change.meta.current_revision_id
    for name, outcome in outcomes.items():
        if name not in items:
            assert not outcome
        elif role == "storage":
            assert outcome is True
        else:
            assert [info.revision_id for info in outcome] == [items[name].change.meta.current_revision_id]
    assert [await store.list_revisions(name) for name in outcomes] == [[]] * len(outcomes)
    assert [len(await store.list_revisions(name)) for name in stale] == [1] * len(stale)


async def test_an_erasure_that_waited_for_a_writer_leaves_nothing_of_what_that_one_wrote(
    rig: Rig, postgres_database: str
) -> None:
    """The statement does not see the revision that came while it waited: it must not erase the row alone."""
    storage = rig.storage()
    await storage.write_many([new("a"), new("b")])
    async with admin(postgres_database) as stranger:
        async with stranger.transaction():
            await stranger.execute("""UPDATE "User_meta" SET version = version + 1 WHERE resource_id = 'a'""")
            erasing = asyncio.gather(storage.erase("a"), storage.erase("b"), storage.erase("absent"))
            waits = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            async with asyncio.timeout(60):
                while not await stranger.fetchval(waits):  # noqa: ASYNC110  another program's state
                    await asyncio.sleep(0.01)
            await stranger.execute(
                """INSERT INTO "User_revision" SELECT (jsonb_populate_record(r, '{"revision_id": "later"}')).* """
                """FROM "User_revision" r WHERE resource_id = 'a'"""
            )
        assert list(await erasing) == [True, True, False]
        assert await stranger.fetchval("""SELECT count(*) FROM "User_revision" """) == 0
        assert await stranger.fetchval("""SELECT count(*) FROM "User_meta" """) == 0


async def test_payload_references(rig: Rig) -> None:
    meta = rig.meta()
    items = [new(name) for name in ids("r", 3)]
    await meta.write_many([item.change for item in items])
    wanted = [item.change.revision.payload_id for item in items if item.change.revision]
    assert await meta.referenced([*wanted, "no"]) == set(wanted)
    assert await meta.referenced([]) == set()


async def transactions_of(dsn: str, table: str) -> list[int]:
    """How many rows each transaction wrote, as the server has it."""
    async with admin(dsn) as connection:
        return [row[0] for row in await connection.fetch(f'SELECT count(*) FROM "{table}" GROUP BY xmin::text')]


@pytest.mark.parametrize("together", [True, False], ids=["callers", "one caller"])
async def test_a_statement_carries_no_more_than_batch_bytes(postgres_database: str, together: bool) -> None:
    writes = [new(name, os.urandom(20 << 10)) for name in ids("r", 40)]
    writes.insert(7, new("huge", os.urandom(300 << 10)))
    async with open_rig(postgres_database, batch_bytes=64 << 10) as rig:
        storage = rig.storage()
        if together:
            await asyncio.gather(*(storage.write(item) for item in writes))
        else:
            assert await storage.write_many(writes) == [None] * 41
        counts = await transactions_of(postgres_database, "User_meta")
        assert sum(counts) == 41
        assert max(counts) == 3
        assert [await payload_of(storage, item.change.meta.resource_id) for item in writes] == [
            item.payload for item in writes
        ]
        # An answer holds twice as much: what does not fit is read apart.
        found = await storage._reader.full.find(list(ids("r", 40)))  # type: ignore[attr-defined]
        assert {type(entry) for entry in found} == {Partial}
        found = await storage._reader.full.find(list(ids("r", 6)))  # type: ignore[attr-defined]
        assert {type(entry) for entry in found} == {StoredRevision}
        names = ["huge", *ids("r", 40)]
        whole = {item.change.meta.resource_id: item.payload for item in writes}
        assert [entry.payload for entry in await storage.read_many(names) if entry] == [whole[name] for name in names]
        searched = await storage.search(build_query(fields=()))
        assert {entry.meta.resource_id: entry.payload for entry in searched} == whole


@pytest.mark.parametrize("together", [True, False], ids=["callers", "one caller"])
async def test_payloads_apart_travel_in_batches_too(postgres_database: str, together: bool) -> None:
    items = [(PayloadKey(name, "p"), os.urandom(20 << 10)) for name in ids("r", 40)]
    items.insert(7, (PayloadKey("huge", "p"), os.urandom(300 << 10)))
    async with open_rig(postgres_database, batch_bytes=64 << 10) as rig:
        store = rig.resource()
        if together:
            await asyncio.gather(*(store.put(*item) for item in items))
        else:
            await store.put_many(items)
        counts = await transactions_of(postgres_database, "User_payload")
        assert sum(counts) == 41
        assert max(counts) == 3
        assert await store.get_many([key for key, _ in items]) == [payload for _, payload in items]


def test_what_an_answer_holds() -> None:
    for batch_bytes in (64 << 10, 4 << 20, 256 << 20):
        assert all(rows * largest_payload(batch_bytes, rows) <= 2 * batch_bytes for rows in (1, 7, 255, 256))
    assert [largest_payload(4 << 20, rows) for rows in (1, 256, 1_000_000, None)] == [8 << 20, *[32 << 10] * 3]


@pytest.mark.parametrize("times", [1, 100])
async def test_an_advance_that_met_a_deleted_resource_is_tried_again_if_it_was_restored_since(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Between the statement and the look at what stood against it. A conflict would name a revision that never changed."""
    storage = rig.storage()
    assert isinstance(storage, PostgresStorage)
    first = new("r", b"1")
    deleted = touched(first, is_deleted=True)
    await storage.write_many([first])
    await storage.write(deleted)
    connection = await rig.connection()
    attempt, fetch, left = connection.attempt, connection.fetch, times

    async def restored_after(sql: str, *args: Any) -> Any:
        nonlocal left
        rows = await attempt(sql, *args)
        if sql == storage._writer._sql.advance:
            left -= 1
            if left == 0:
                await rig.storage().write(touched(deleted, is_deleted=False))
        return rows

    async def looks_restored(sql: str, *args: Any, **options: Any) -> Any:
        if sql != storage._writer._sql.state:
            return await fetch(sql, *args, **options)
        return [("r", first.change.meta.current_revision_id, False)]

    monkeypatch.setattr(connection, "attempt", restored_after)
    monkeypatch.setattr(connection, "fetch", looks_restored)
    advance = advance_of(first, b"2")
    if times > 1:
        with pytest.raises(BackendUnavailable, match="to and fro"):
            await storage.advance(advance)
    else:
        await storage.advance(advance)
    monkeypatch.undo()
    assert await payload_of(storage, "r") == (b"1" if times > 1 else b"2")
