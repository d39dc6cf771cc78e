"""The metadata object as a base and what changed since: small pushes, the same content, and no base missing or left."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from specstar.backends.s3 import meta_database, meta_log, meta_object
from specstar.backends.s3.meta_database import Copy
from specstar.backends.s3.meta_delta import Delta, Recording, apply_deltas
from specstar.backends.sqlite import forks
from specstar.backends.sqlite.database import Database, Operation
from specstar.backends.sqlite.reads import GetMeta, ListRevisions
from specstar.backends.sqlite.tables import ModelTables
from specstar.backends.sqlite.writes import EnsureModel, EraseRow, WriteRow
from specstar.errors import BackendError, OutcomeUnknownError, RevisionConflictError, SchemaVersionError
from specstar.roles import MetaWrite
from tests.conformance.samples import created, model, revised
from tests.faults.tools.scripted_s3 import Fault, ScriptedS3
from tests.unit.s3.rig import Rig, opened, options_for, until

pytestmark = pytest.mark.anyio

KEY = "bucket/meta/Sample.sqlite"
BASES = "bucket/meta/Sample.base/"
FORM = meta_database.Form(logged=True, limit=1 << 30)


@pytest.fixture
def from_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """However small it is."""
    monkeypatch.setattr(meta_database, "SMALL", 0)


@pytest.fixture
def new_base_with_each_push(from_the_first: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_log.Log, "longer", lambda self, delta: None)


def bases(server: ScriptedS3) -> set[str]:
    return {key for key in server.objects if key.startswith(BASES)}


def puts(server: ScriptedS3) -> list[str]:
    return [key for method, key in server.requests if method == "PUT"]


def gets_of_bases(server: ScriptedS3) -> int:
    return sum(method == "GET" and key.startswith(BASES) for method, key in server.requests)


async def ids(rig: Rig) -> set[str]:
    """What another process finds in the bucket."""
    async with opened(rig.options) as other:
        names = [f"r{n}" for n in range(600)]
        return {row.resource_id for row in await other.meta().get_many(names) if row is not None}


async def fill(rig: Rig, count: int) -> set[str]:
    rows = [created(f"r{n}", name=f"name {n}") for n in range(count)]
    assert await rig.meta().write_many(rows) == [None] * count
    return {row.meta.resource_id for row in rows}


async def test_small_databases_stay_whole_and_larger_ones_send_what_changed(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        await rig.meta().write(created("r500"))
        assert bases(server) == set()
        there = {"r500"} | await fill(rig, 400)
        (base,) = bases(server)
        size = len(server.objects[base].data)
        assert size > meta_database.SMALL
        server.requests.clear()
        for number in range(501, 506):
            await rig.meta().write(created(f"r{number}"))
            there.add(f"r{number}")
            assert len(server.objects[KEY].data) < 40_000
        assert puts(server) == [KEY] * 5
        assert await ids(rig) == there


@pytest.mark.usefixtures("from_the_first")
async def test_a_new_base_follows_and_the_old_ones_go(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        seen: list[str] = []
        for number in range(60):
            await rig.meta().write(created(f"r{number}", name="x" * 5000))
            seen += sorted(bases(server) - set(seen))
        assert 3 <= len(seen) <= 20
        # The one before stays for those who still read a log of it.
        await until(lambda: bases(server) == set(seen[-2:]))
        assert await ids(rig) == {f"r{number}" for number in range(60)}


@pytest.mark.usefixtures("from_the_first")
async def test_what_others_write_is_followed_without_the_base(server: ScriptedS3) -> None:
    options = options_for(server.endpoint_url, auto_reload_on_conflict=True)
    async with opened(options) as one, opened(options) as two:
        first = created("r0")
        await one.meta().write(first)
        assert await two.meta().get("r0") is not None
        server.requests.clear()
        await one.meta().write(revised(first))
        await two.meta().write(created("r1"))
        assert len(await two.meta().list_revisions("r0")) == 2
        await one.meta().erase("r0")
        assert await two.meta().get("r0") is None
        assert await one.meta().get("r1") is not None
        assert gets_of_bases(server) == 0


@pytest.mark.usefixtures("new_base_with_each_push")
async def test_a_base_that_goes_while_it_is_read_is_no_error(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as one, opened(options_for(server.endpoint_url)) as two:
        await one.meta().write(created("r0"))
        stale = server.objects[KEY]
        for number in range(1, 4):
            await one.meta().write(created(f"r{number}"))
        await until(lambda: len(bases(server)) == 2)
        newest, server.objects[KEY] = server.objects[KEY], stale

        def script(method: str, key: str, number: int) -> Fault | None:
            if method == "GET" and key.startswith(BASES):
                server.objects[KEY] = newest
            return None

        server.script = script
        assert await two.meta().get("r3") is not None


@pytest.mark.usefixtures("from_the_first")
async def test_a_lost_base_is_an_error_and_nothing_is_written(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        await rig.meta().write(created("r0"))
    (base,) = bases(server)
    held = server.objects.pop(base)
    before = server.objects[KEY]
    async with opened(options_for(server.endpoint_url)) as rig:
        with pytest.raises(BackendError, match="is gone"):
            await rig.meta().write(created("r1"))
        server.put(base, held.data[:-1] + bytes([held.data[-1] ^ 1]), held.headers)
        with pytest.raises(BackendError, match="checksum"):
            await rig.meta().write(created("r1"))
        assert server.objects[KEY] is before
        server.objects[base] = held
        await rig.meta().write(created("r1"))
        assert await ids(rig) == {"r0", "r1"}


@pytest.mark.usefixtures("new_base_with_each_push")
async def test_the_base_of_a_push_that_lost_is_removed(server: ScriptedS3) -> None:
    options = options_for(server.endpoint_url, check_etag_on_read=False)
    async with opened(options) as one, opened(options) as two:
        await one.meta().write(created("r0"))
        await two.meta().write(created("r1"))
        before = bases(server)
        with pytest.raises(RevisionConflictError):
            await one.meta().write(created("r2"))
        await until(lambda: bases(server) == before)
        server.script = lambda method, key, number: (
            Fault(403, "AccessDenied") if (method, key) == ("PUT", KEY) else None
        )
        with pytest.raises(BackendError, match="s3:PutObject"):
            await two.meta().write(created("r2"))
        await until(lambda: bases(server) == before)
        assert await ids(one) == {"r0", "r1"}


@pytest.mark.usefixtures("new_base_with_each_push")
async def test_the_base_of_a_push_that_may_have_landed_stays(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, max_attempts=1)) as rig:
        await rig.meta().write(created("r0"))
        server.script = lambda method, key, number: Fault(when="after") if key == KEY else None
        with pytest.raises(OutcomeUnknownError):
            await rig.meta().write(created("r1"))
        server.script = lambda method, key, number: None
        assert await ids(rig) == {"r0", "r1"}


@pytest.mark.usefixtures("from_the_first")
async def test_a_base_that_cannot_be_stored_stores_nothing(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        server.script = lambda method, key, number: (
            Fault(403, "AccessDenied") if method == "PUT" and key.startswith(BASES) else None
        )
        with pytest.raises(BackendError, match="s3:PutObject"):
            await rig.meta().write(created("r0"))
        assert KEY not in server.objects
        server.script = lambda method, key, number: None
        await rig.meta().write(created("r0"))
        assert await ids(rig) == {"r0"}


@pytest.mark.usefixtures("from_the_first")
async def test_what_killed_writers_left_is_swept(server: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    server.put(f"{BASES}left.sqlite", b"left")
    async with opened(options_for(server.endpoint_url)) as rig:
        await rig.meta(model(fields=("name",))).write(created("r0"))
        await asyncio.sleep(0.1)
        assert f"{BASES}left.sqlite" in bases(server), "it may belong to a push under way"
    monkeypatch.setattr(meta_object, "_ORPHAN_SECONDS", -1e10)
    async with opened(options_for(server.endpoint_url)) as rig:
        await rig.meta(model(fields=("name",))).write(created("r1"))
        # Another index is a new base.
        await rig.meta(model(fields=("name", "any"))).write(created("r2"))
        await until(lambda: f"{BASES}left.sqlite" not in bases(server))
        assert await ids(rig) == {"r0", "r1", "r2"}


@pytest.mark.usefixtures("from_the_first")
async def test_another_index_begins_anew_for_all(server: ScriptedS3) -> None:
    options = options_for(server.endpoint_url, auto_reload_on_conflict=True)
    async with opened(options) as one, opened(options) as two:
        fewer = model(fields=("name",))
        await one.meta(fewer).write(created("r0"))
        await one.meta(fewer).write(created("r1"))
        await two.meta().write(created("r2"))
        await one.meta(fewer).write(created("r3"))
        await two.meta().write(created("r4"))
        assert await ids(one) == {f"r{number}" for number in range(5)}


@pytest.mark.usefixtures("from_the_first")
async def test_without_locking_the_database_is_pushed_whole(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as one:
        await one.meta().write(created("r0"))
    async with opened(options_for(server.endpoint_url, enable_locking=False)) as two:
        await two.meta().write(created("r1"))
        assert not meta_log.is_log(server.objects[KEY].data)
        assert await ids(two) == {"r0", "r1"}


@pytest.mark.usefixtures("from_the_first")
async def test_local_writes_go_out_on_a_base_of_their_own(server: ScriptedS3) -> None:
    async with (
        opened(options_for(server.endpoint_url, auto_sync=False, auto_reload_on_conflict=True)) as one,
        opened(options_for(server.endpoint_url, auto_reload_on_conflict=True)) as two,
    ):
        await two.meta().write(created("r0"))
        await one.meta().write(created("r1"))
        await two.meta().write(created("r2"))
        await one.meta().sync()
        await two.meta().write(created("r3"))
        await one.meta().write(created("r4"))
        await one.meta().sync()
        assert await ids(two) == {f"r{number}" for number in range(5)}


@pytest.mark.usefixtures("from_the_first")
async def test_programs_that_know_no_logs_refuse_them(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        await rig.meta().write(created("r0"))
    assert meta_log.is_log(server.objects[KEY].data)
    with pytest.raises(SchemaVersionError, match="1001"):
        Database.from_bytes(server.objects[KEY].data, "it")


@pytest.mark.usefixtures("from_the_first")
async def test_reads_beside_writes_see_no_write_before_it_is_pushed(server: ScriptedS3) -> None:
    """Copies take turns: one that is being read is not the next one to be changed."""
    async with opened(options_for(server.endpoint_url, check_etag_on_read=False)) as rig:
        store = rig.meta()
        await store.write(created("r0"))
        pushed = {"r0"}
        server.script = lambda method, key, number: Fault(delay=0.005) if method == "PUT" else None

        async def read_on() -> None:
            while len(pushed) < 30:
                names = [f"r{number}" for number in range(40)]
                before = set(pushed)
                found = {row.resource_id for row in await store.get_many(names) if row is not None}
                assert before <= found <= pushed | {f"r{len(pushed)}"}

        async def write_on() -> None:
            for number in range(1, 30):
                await store.write(created(f"r{number}"))
                pushed.add(f"r{number}")

        await asyncio.gather(write_on(), *(read_on() for _ in range(4)))
        server.script = lambda method, key, number: None
        assert await ids(rig) == pushed


class Twins:
    """A copy whose pushes another one follows, beside one that is loaded anew."""

    def __init__(self) -> None:
        self.tables = ModelTables(model())
        self.first = Copy.empty("first", EnsureModel(self.tables))
        self.bases: dict[str, bytes] = {}
        self.other: Copy | None = None
        self.logs = 0

    def push(self, changes: list[meta_database.Change], commit_id: str) -> None:
        prepared = self.first.prepare(changes, commit_id, FORM)
        if prepared.snapshot is None:
            prepared.copy.close()
            return
        if prepared.snapshot.base is not None:
            base, data = prepared.snapshot.base
            self.bases[base.name] = data
        older, self.first = self.first, prepared.copy
        if prepared.delta is not None:
            self.first.keep(older, prepared.delta)
        else:
            older.close()
        log = meta_log.decode(prepared.snapshot.data, "log", verified=False)
        loaded = Copy.load_log(self.bases[log.base.name], log, "loaded", EnsureModel(self.tables))
        followed = self.other.follow(log) if self.other is not None else None
        self.logs += followed is not None
        if self.other is not None:
            self.other.close()
        self.other = followed or loaded
        assert self.content(self.first) == self.content(self.other) == self.content(loaded)

    def content(self, copy: Copy) -> list[object]:
        names = [f"r{number}" for number in range(20)]
        operations: list[Operation] = [
            GetMeta(self.tables, names),
            *(ListRevisions(self.tables, name) for name in names),
        ]
        return copy.read(operations)


@pytest.mark.usefixtures("from_the_first")
@pytest.mark.parametrize("seed", range(5))
async def test_any_writes_make_the_same_of_every_copy(seed: int) -> None:
    chance = random.Random(seed)
    twins = Twins()
    rows: dict[str, MetaWrite] = {}

    def change() -> meta_database.Change:
        name = f"r{chance.randrange(20)}"
        match chance.choice(["create", "revise", "revise", "erase", "again"]):
            case "revise" if name in rows:
                rows[name] = revised(rows[name], name="y" * chance.choice([0, 10, 3000]), age=chance.random())
                return meta_database.Change(name, WriteRow(twins.tables, rows[name]))
            case "erase":
                rows.pop(name, None)
                return meta_database.Change(name, EraseRow(twins.tables, name, None))
            case "again" if name in rows:  # refused
                return meta_database.Change(name, WriteRow(twins.tables, created(name)))
            case _:
                row = created(name, name="x" * chance.choice([0, 10, 3000]))
                rows.setdefault(name, row)
                return meta_database.Change(name, WriteRow(twins.tables, row))

    for number in range(60):
        twins.push([change() for _ in range(chance.choice([1, 2, 40]))], f"{number:032x}")
    assert twins.logs > 10


def opened_database(*rows: MetaWrite) -> tuple[ModelTables, Database]:
    tables, database = ModelTables(model()), Database.in_memory()
    assert database.write([EnsureModel(tables), *(WriteRow(tables, row) for row in rows)]) == [None] * (1 + len(rows))
    return tables, database


def damages(delta: Delta) -> Iterator[Delta]:
    yield Delta(delta.changes[:-3], delta.rows)
    yield Delta(delta.changes, delta.rows + 1)
    yield Delta(delta.changes.replace(b"meta_sample", b"meta_simple"), delta.rows)


async def test_changes_that_do_not_fit_are_noticed() -> None:
    tables, database = opened_database()
    before = database.serialize()
    recording = Recording(database)
    assert database.write([WriteRow(tables, created("r0")), WriteRow(tables, created("r1"))]) == [None, None]
    delta = recording.end()
    same = Database.from_bytes(before, "same")
    apply_deltas(same, [delta])
    assert delta.rows == 4
    for damaged in damages(delta):
        with pytest.raises(BackendError, match="do not fit"):
            apply_deltas(Database.from_bytes(before, "damaged"), [damaged])
    with pytest.raises(BackendError, match="do not fit"):
        apply_deltas(same, [delta])


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda data: data[:4096], id="cut"),
        pytest.param(lambda data: data.replace(b"specstar_changes", b"specstar_changed"), id="renamed"),
    ],
)
async def test_a_damaged_log_is_noticed_without_its_checksum(harm: Callable[[bytes], bytes]) -> None:
    base = meta_log.Base("name", "0" * 64, 1000, meta_log.Stamp(1, 2))
    data = meta_log.encode(meta_log.Log(base, "previous", 5, (Delta(b"changes" * 1000, 1),)))
    assert meta_log.decode(data, "log", verified=False).deltas[0].rows == 1
    with pytest.raises(BackendError):
        meta_log.decode(harm(data), "log", verified=False)


@pytest.mark.usefixtures("from_the_first")
async def test_a_fork_waits_for_what_is_under_way(server: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way: list[int] = []
    original = Recording.end

    def end(self: Recording) -> Delta:
        under_way.append(forks._jobs)
        return original(self)

    monkeypatch.setattr(Recording, "end", end)
    async with opened(options_for(server.endpoint_url)) as rig:
        await rig.meta().write(created("r0"))
        await rig.meta().write(created("r1"))
    # One more if the copy before is just being closed.
    assert [jobs >= 1 for jobs in under_way] == [True]


@pytest.mark.usefixtures("from_the_first")
async def test_rows_that_exchange_their_places_are_followed(server: ScriptedS3) -> None:
    """Erased and made again in another order: what is unique in them moves to the row of the other."""
    one, two = created("r0"), created("r1")
    async with opened(options_for(server.endpoint_url, check_etag_on_read=False)) as rig:
        store = rig.meta()
        assert await store.write_many([one, two]) == [None, None]
        await asyncio.gather(
            store.erase("r0"), store.erase("r1"), store.write(two), store.write(one), store.write(created("r2"))
        )
        assert await ids(rig) == {"r0", "r1", "r2"}
        await store.write(created("r3"))
        assert await ids(rig) == {"r0", "r1", "r2", "r3"}


@pytest.mark.usefixtures("new_base_with_each_push")
@pytest.mark.parametrize(
    "fault", [pytest.param(Fault(403, "ExpiredToken"), id="refused"), pytest.param(None, id="damaged")]
)
async def test_the_base_of_a_push_stays_if_the_object_cannot_be_read(server: ScriptedS3, fault: Fault | None) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        await rig.meta().write(created("r0"))
        held: list[bytes] = []

        def script(method: str, key: str, number: int) -> Fault | None:
            if method == "PUT" and key == KEY:
                return Fault(when="after")
            if method == "GET" and key == KEY:
                landed = server.objects[KEY]
                held[:] = [landed.data]
                server.objects[KEY] = replace(landed, data=landed.data[:-1])
                return fault
            return None

        server.script = script
        with pytest.raises(OutcomeUnknownError):
            await rig.meta().write(created("r1"))
        server.script = lambda method, key, number: None
        server.objects[KEY] = replace(server.objects[KEY], data=held[0])
        await asyncio.sleep(0.1)
        assert await ids(rig) == {"r0", "r1"}


@pytest.mark.usefixtures("new_base_with_each_push")
async def test_a_copy_in_another_place_leaves_the_first_alone(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, prefix="first")) as rig:
        for number in range(3):
            await rig.meta().write(created(f"r{number}"))
        # The base before the last is on its way out.
        await until(lambda: len([key for key in server.objects if ".base/" in key]) == 2)
        for key, held in list(server.objects.items()):
            server.objects[key.replace("/first/", "/second/")] = held
        async with opened(options_for(server.endpoint_url, prefix="second")) as copied:
            server.requests.clear()
            for number in range(3, 6):
                await copied.meta().write(created(f"r{number}"))
            await asyncio.sleep(0.1)
            assert not [key for _, key in server.requests if "/first/" in key]
            assert await ids(copied) == {f"r{number}" for number in range(6)}
        assert await ids(rig) == {f"r{number}" for number in range(3)}


@pytest.mark.usefixtures("new_base_with_each_push")
async def test_a_sweep_that_comes_late_leaves_newer_bases(server: ScriptedS3) -> None:
    """A process that was stopped for long between its push and the sweep."""
    async with opened(options_for(server.endpoint_url)) as rig:
        await rig.meta().write(created("r0"))
        stored = meta_object.MetaObject(await rig.lazy.get(), "bucket", "", "Sample")
        (first,) = bases(server)
        server.times[first] = 0.0
        server.times[f"{BASES}before.sqlite"] = -25 * 3600.0
        server.put(f"{BASES}before.sqlite", b"left")
        await rig.meta().write(created("r1"))
        (second,) = bases(server) - {first, f"{BASES}before.sqlite"}
        server.times[second] = 25 * 3600.0
        await stored.sweep_bases(first.removeprefix(BASES), [first.removeprefix(BASES)])
        assert bases(server) == {first, second}
        await stored.sweep_bases("gone.sqlite", [])
        assert bases(server) == {first, second}


async def test_a_store_that_comes_while_tables_are_made_gets_its_own(
    server: ScriptedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        await rig.meta(model(fields=("name",))).write(created("r0"))
        made, go_on = threading.Event(), threading.Event()
        original = Copy.settle

        def settle(self: Copy) -> None:
            original(self)
            made.set()
            assert go_on.wait(5)

        monkeypatch.setattr(Copy, "settle", settle)
        second = asyncio.create_task(rig.meta(model(fields=("name", "any"))).get("r0"))
        await until(made.is_set)
        third = asyncio.create_task(rig.meta(model(fields=("name", "age"))).get("r0"))
        await asyncio.sleep(0.05)
        go_on.set()
        await asyncio.gather(second, third)
        connection = await rig.lazy.get()
        (handle,) = connection.meta_objects.values()
        sync: Any = handle
        indexes = sync._current.copy._database.execute(
            "SELECT sql FROM sqlite_schema WHERE type = 'index' AND sql LIKE '%age%'"
        )
        assert indexes
