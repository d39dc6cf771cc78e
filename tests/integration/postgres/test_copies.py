"""A small current revision lies once more in its row: what is read from there is what the revision table says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from specstar.backends.postgres import schema
from specstar.config.encoding import Encoding
from specstar.errors import BackendUnavailable, DecodeError, InvalidInputError
from specstar.query import QB, IndexedField, build_query
from specstar.roles import AdvancingStorage, MetaWrite, ModelSpec, RevisionStatus, StorageWrite, StoredRevision
from tests.integration.postgres.rig import Rig, admin, advance_of, change_of, ids, new, open_rig, touched

AGE = (IndexedField("age"),)
FORGET_COPIES = 'UPDATE "User_meta" SET copied_version = NULL'
LOCKS = (
    "SELECT locktype, granted FROM pg_locks WHERE (locktype = 'advisory' OR NOT granted) "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
COPIED = 'SELECT count(*) FROM "User_meta" WHERE copied_version = version AND revision_copy IS NOT NULL'


@pytest.fixture
async def look(postgres_database: str) -> AsyncIterator[Any]:
    async with admin(postgres_database) as connection:
        yield connection


def users(rig: Rig, *, busy: bool = False) -> AdvancingStorage:
    storage = rig.provider.combined_storage(
        rig.context, rig.context, ModelSpec(name="User", indexed_fields=AGE, busy_rows=busy)
    )
    assert isinstance(storage, AdvancingStorage)
    return storage


async def everything(storage: AdvancingStorage, wanted: list[str]) -> list[Any]:
    """What the reads that join the current revision say."""
    return [
        await storage.read_many(wanted),
        [await storage.read(resource_id) for resource_id in wanted],
        await asyncio.gather(*(storage.read(resource_id) for resource_id in wanted)),
        await asyncio.gather(*(storage.read_revision(resource_id) for resource_id in wanted)),
        await storage.search(build_query(include_deleted=True)),
        await storage.search(build_query(QB["age"] == 5, limit=50)),
    ]


def kinds(resource_id: str) -> list[StorageWrite]:
    """Creations that leave different things unsaid."""
    plain = new(resource_id, b'{"a":1}', age=5)
    meta, revision = plain.change.meta, plain.change.revision
    assert revision is not None
    earlier = revision.created_time - timedelta(days=1)
    changes: list[dict[str, Any]] = [
        {},
        {"status": RevisionStatus.draft, "encoding": Encoding.msgpack},
        {"created_time": earlier},
        {"created_time": earlier, "updated_time": earlier, "created_by": "", "updated_by": "eve"},
        {"payload_id": "another", "parent_revision_id": "before", "schema_version": None},
    ]
    writes = [StorageWrite(MetaWrite(meta, replace(revision, **change), None), plain.payload) for change in changes]
    return [*writes, StorageWrite(MetaWrite(replace(meta, updated_by="", created_by=""), revision, None), b"x" * 512)]


async def test_a_copy_says_what_the_revision_says(rig: Rig, look: Any) -> None:
    storage = users(rig)
    wanted = list(ids("r", 6))
    await asyncio.gather(*(storage.write(kinds(name)[number]) for number, name in enumerate(wanted)))
    assert await look.fetchval(COPIED) == 6
    copied = await everything(storage, wanted)
    await look.execute(FORGET_COPIES)
    assert copied == await everything(storage, wanted)
    assert len(copied[-1]) == 6


async def test_what_is_copied_is_read_from_the_row_alone(rig: Rig, look: Any) -> None:
    storage = users(rig)
    wanted = list(ids("r", 3))
    written = [new(name, age=5) for name in wanted]
    for write in written:
        await storage.write(write)
    await storage.advance(advance_of(written[0], b"[]", age=5))
    before = await everything(storage, wanted)
    await look.execute('DELETE FROM "User_revision"')
    assert await everything(storage, wanted) == before


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_changes_a_row_its_copy_never_lies(rig: Rig, look: Any, seed: int) -> None:
    storage = users(rig)
    dice = random.Random(seed)
    wanted = list(ids("r", 8))
    last = {name: new(name, b"{}", age=5) for name in wanted}
    earlier: dict[str, list[str]] = {name: [write.change.meta.current_revision_id] for name, write in last.items()}
    await asyncio.gather(*map(storage.write, last.values()))
    for _ in range(12):
        changes: list[StorageWrite] = []
        advances = []
        for name in dice.sample(wanted, 5):
            payload = b"y" * dice.choice([1, 100, 512, 513, 40_000])
            before = last[name]
            row = before.change.meta
            match dice.randrange(7):
                case 0 | 1:
                    change = change_of(before, payload, age=5)
                case 2:  # a draft is written over, in place
                    change = change_of(before, payload, age=5)
                    revision, meta = change.change.revision, change.change.meta
                    assert revision is not None
                    same = row.current_revision_id
                    change = StorageWrite(
                        MetaWrite(
                            replace(meta, current_revision_id=same), replace(revision, revision_id=same), row.version
                        ),
                        payload,
                    )
                case 3:  # deleted or restored
                    change = touched(before, is_deleted=not row.is_deleted)
                case 4:  # indexed anew: nothing else changes
                    change = StorageWrite(MetaWrite(replace(row, version=row.version + 1), None, row.version), None)
                case 5:  # switched back
                    change = touched(before, current_revision_id=dice.choice(earlier[name]))
                case _:
                    if row.is_deleted:
                        continue
                    advance = advance_of(before, payload, age=5, behind=timedelta(seconds=dice.choice([0, 60])))
                    advances.append(advance)
                    earlier[name].append(advance.revision.revision_id)
                    continue
            changes.append(change)
            last[name] = change
            earlier[name].append(change.change.meta.current_revision_id)
        await asyncio.gather(*map(storage.write, changes), *map(storage.advance, advances))
        for advance in advances:
            name = advance.revision.resource_id
            found = await storage.read(name)
            assert isinstance(found, StoredRevision)
            last[name] = StorageWrite(MetaWrite(found.meta, None, None), None)
        copied = await everything(storage, wanted)
        kept = await look.fetch('SELECT resource_id, copied_version FROM "User_meta"')
        await look.execute(FORGET_COPIES)
        assert copied == await everything(storage, wanted)
        await look.executemany(
            'UPDATE "User_meta" SET copied_version = $2 WHERE resource_id = $1', [tuple(row) for row in kept]
        )


async def test_a_copy_outlasts_what_leaves_the_revision_and_its_times_alone(rig: Rig, look: Any) -> None:
    storage = users(rig)
    written = new("r")
    await storage.write(written)
    row = replace(written.change.meta, version=2, indexed_data={"age": 1})
    await storage.write(StorageWrite(MetaWrite(row, None, 1), None))
    assert await look.fetchval(COPIED) == 1
    deleted = touched(StorageWrite(MetaWrite(row, None, 1), None), is_deleted=True)
    await storage.write(deleted)
    # The revision kept its times, the row has others.
    assert await look.fetchval('SELECT revision_copy IS NULL AND copied_version IS NULL FROM "User_meta"')


async def test_one_who_changes_a_row_and_knows_nothing_of_copies_leaves_none_that_counts(rig: Rig, look: Any) -> None:
    storage = users(rig)
    first = new("r", b"1")
    await storage.write(first)
    await look.execute(
        "INSERT INTO \"User_revision\" SELECT resource_id, 'v2', revision_id, 'v2', status, encoding, size, created_time, "
        "updated_time, created_by, updated_by, schema_version, '2' FROM \"User_revision\""
    )
    await look.execute("UPDATE \"User_meta\" SET version = version + 1, current_revision_id = 'v2'")
    found = await storage.read("r")
    assert isinstance(found, StoredRevision)
    assert (found.revision.revision_id, found.payload) == ("v2", b"2")


async def test_what_is_large_is_not_copied(rig: Rig, look: Any) -> None:
    storage = users(rig)
    await storage.write(new("small", b"x" * 512))
    await storage.write(new("large", b"x" * 513))
    user = "u" * 600
    written = new("long", b"x")
    revision = written.change.revision
    assert revision is not None
    await storage.write(StorageWrite(MetaWrite(written.change.meta, replace(revision, created_by=user), None), b"x"))
    assert await look.fetchval('SELECT array_agg(resource_id) FROM "User_meta" WHERE revision_copy IS NOT NULL') == [
        "small"
    ]
    found = await storage.read_many(["small", "large", "long"])
    assert [entry and len(entry.payload) for entry in found] == [512, 513, 1]
    assert found[2] is not None
    assert found[2].revision.created_by == user


async def test_payloads_that_lie_elsewhere_leave_no_copy(rig: Rig, look: Any) -> None:
    meta = rig.meta()
    written = new("r")
    await meta.write(written.change)
    assert await look.fetchval('SELECT count(*) FROM "User_meta" WHERE revision_copy IS NOT NULL') == 0
    assert await meta.get_with_revision("r") == (written.change.meta, written.change.revision)


async def test_rows_that_are_rewritten_often_stay_short(rig: Rig, look: Any) -> None:
    storage = users(rig, busy=True)
    written = new("r")
    await storage.write(written)
    changed = change_of(written)
    await storage.write(changed)
    await storage.advance(advance_of(changed))
    assert await look.fetchval('SELECT count(*) FROM "User_meta" WHERE revision_copy IS NOT NULL') == 0
    assert isinstance(await storage.read("r"), StoredRevision)


@pytest.mark.parametrize("copy", [b"", b"\x00", b"\x00\x05\x93", b"\xff\xff\xc1"])
async def test_a_damaged_copy_is_told(rig: Rig, look: Any, copy: bytes) -> None:
    storage = users(rig)
    await storage.write(new("r"))
    await look.execute('UPDATE "User_meta" SET revision_copy = $1', copy)
    with pytest.raises(
        DecodeError, match=r"copy of revision .* in the row of 'r' is damaged .* set copied_version to NULL"
    ):
        await storage.read("r")
    await look.execute(FORGET_COPIES)
    assert isinstance(await storage.read("r"), StoredRevision)


async def test_a_damaged_copy_hides_no_others(rig: Rig, look: Any, caplog: pytest.LogCaptureFixture) -> None:
    storage = users(rig)
    wanted = list(ids("r", 3))
    await storage.write_many([new(name, age=5) for name in wanted])
    await look.execute("UPDATE \"User_meta\" SET revision_copy = 'x' WHERE resource_id = $1", wanted[1])
    for found in (
        await storage.read_many(wanted),
        await storage.search(build_query()),
        await storage.search(build_query(QB["age"] == 5, limit=50)),
    ):
        assert [entry and (entry.meta.resource_id, entry.payload) for entry in found] == list(
            zip(wanted, [b"{}", b"", b"{}"], strict=True)
        )
    assert caplog.text.count("set copied_version to NULL") == 3


async def test_a_copy_that_was_emptied_does_not_count(rig: Rig, look: Any) -> None:
    storage = users(rig)
    wanted = list(ids("r", 3))
    await storage.write_many([new(name, age=5) for name in wanted])
    before = await everything(storage, wanted)
    await look.execute('UPDATE "User_meta" SET revision_copy = NULL')
    assert await everything(storage, wanted) == before


async def test_a_text_that_no_copy_can_hold_is_refused_alone(rig: Rig) -> None:
    storage = users(rig)
    written = new("bad")
    revision = written.change.revision
    assert revision is not None
    bad = StorageWrite(MetaWrite(written.change.meta, replace(revision, created_by="\ud800"), None), b"{}")
    refused, made = await storage.write_many([bad, new("good")])
    assert isinstance(refused, InvalidInputError)
    assert made is None


@pytest.mark.parametrize("analyzed", [False, True])
async def test_revisions_that_have_a_copy_are_not_looked_for(rig: Rig, look: Any, *, analyzed: bool) -> None:
    storage: Any = users(rig)
    await storage.write_many([new(name, age=5) for name in ids("r", 2000)])
    if analyzed:
        await look.execute("ANALYZE")
    searcher, sql = storage._searcher, storage._tables.meta_sql
    statements = [(sql.read_full_one, ["r00001", 1000]), (sql.read_full, [list(ids("r", 50)), 1000])]
    for query in (build_query(limit=1000), build_query(QB["age"] == 5, limit=100)):
        text, operands = searcher._statement(query, searcher._sql.search_full, first_param=2)
        statements.append((text, [1000, *operands]))
    for text, operands in statements:
        plan = [row[0] for row in await look.fetch(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {text}", *operands)]
        assert [line.strip()[-16:] for line in plan if ' on "User_revision"' in line] == ["(never executed)"]


async def _as_version_1(connection: Any) -> None:
    await connection.execute('ALTER TABLE "User_meta" DROP COLUMN revision_copy, DROP COLUMN copied_version')
    await connection.execute("UPDATE specstar_schema SET version = 1")


async def test_tables_of_version_1_are_given_room_for_copies(postgres_database: str, look: Any) -> None:
    wanted = list(ids("r", 3))
    written = [new(name, age=5) for name in wanted]
    async with open_rig(postgres_database) as rig:
        for write in written:
            await users(rig).write(write)
        before = await everything(users(rig), wanted)
    await _as_version_1(look)
    async with open_rig(postgres_database) as rig:
        storage = users(rig)
        assert await everything(storage, wanted) == before
        await storage.write(change_of(written[0], b"2", age=5))
        await storage.advance(advance_of(written[1], b"3", age=5))
        assert await look.fetchval(COPIED) == 2
        assert await look.fetchval("SELECT version FROM specstar_schema") == schema.META.version
        found = await storage.read_many(wanted)
        assert [entry and entry.payload for entry in found] == [b"2", b"3", b"{}"]


async def test_a_table_in_use_is_migrated_once_it_is_free_and_holds_up_nobody(
    postgres_database: str, look: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_rig(postgres_database) as rig:
        await users(rig).write(new("r"))
    await _as_version_1(look)
    monkeypatch.setattr(schema, "_LOCK_SECONDS", 1)
    async with admin(postgres_database) as report, open_rig(postgres_database) as rig:
        transaction = report.transaction()
        await transaction.start()
        await report.fetch('SELECT * FROM "User_meta"')
        with monkeypatch.context() as once:
            once.setattr(schema, "_ATTEMPTS", 1)
            with pytest.raises(BackendUnavailable, match=r'"User_meta".* locked for too long.*pg_stat_activity'):
                await users(rig).read("r")
        # Others read on.
        assert await look.fetchval('SELECT count(*) FROM "User_meta"') == 1
        reading = asyncio.ensure_future(users(rig).read("r"))
        async with asyncio.timeout(20):
            while not await look.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):  # noqa: ASYNC110  in the server
                await asyncio.sleep(0.01)
        await transaction.rollback()
        assert isinstance(await reading, StoredRevision)


async def test_processes_that_migrate_do_not_wait_for_a_table_one_after_the_other(
    postgres_database: str, look: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_rig(postgres_database) as rig:
        await users(rig).write(new("r"))
    await _as_version_1(look)
    rests: list[Any] = []

    async def rest(seconds: float) -> None:
        rests.append(await look.fetch(LOCKS))

    monkeypatch.setattr(schema, "_LOCK_SECONDS", 0.1)
    monkeypatch.setattr(schema, "_ATTEMPTS", 1)
    async with admin(postgres_database) as report, open_rig(postgres_database) as rig:
        async with report.transaction():
            await report.fetch('SELECT * FROM "User_meta"')
            with monkeypatch.context() as once:
                once.setattr(schema, "asyncio", SimpleNamespace(sleep=rest))
                with pytest.raises(BackendUnavailable):
                    await users(rig).read("r")
        # In its pause it holds the lock of all migrations, and waits for no table.
        assert [[tuple(row) for row in rows] for rows in rests] == [[("advisory", True)]]
        assert isinstance(await users(rig).read("r"), StoredRevision)
