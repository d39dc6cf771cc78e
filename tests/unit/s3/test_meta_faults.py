"""Metadata pushes against a server that fails on purpose: nothing acknowledged is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable
from typing import Any

import pytest

from specstar.backends.s3 import meta_database
from specstar.backends.s3.meta_database import Copy
from specstar.backends.s3.meta_store import S3MetaStore
from specstar.errors import (
    BackendError,
    BackendUnavailable,
    DuplicateResourceError,
    InvalidInputError,
    LimitExceededError,
    OutcomeUnknownError,
    ResourceNotFoundError,
    RevisionConflictError,
    SchemaVersionError,
)
from specstar.roles import MetaWrite
from tests.conformance.samples import created, model, revised
from tests.faults.tools.scripted_s3 import Fault, ScriptedS3
from tests.unit.s3.rig import Rig, opened, options_for, until

pytestmark = pytest.mark.anyio

KEY = "bucket/meta/Sample.sqlite"


@pytest.fixture(autouse=True, params=["whole", "log"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds for a database that is pushed whole, and for one that is a base and a log."""
    if request.param == "log":
        monkeypatch.setattr(meta_database, "SMALL", 0)


def on_push(*faults: Fault | None) -> Callable[[str, str, int], Fault | None]:
    """Faults for the first pushes of the metadata object, one each."""
    left = list(faults)

    def script(method: str, key: str, number: int) -> Fault | None:
        return left.pop(0) if left and method == "PUT" and key == KEY else None

    return script


def pushes(server: ScriptedS3) -> int:
    return server.requests.count(("PUT", KEY))


async def ids(rig: Rig) -> set[str]:
    """What another process finds in the bucket."""
    async with opened(rig.options) as other:
        return {
            row.resource_id for row in await other.meta().get_many([f"r{n}" for n in range(100)]) if row is not None
        }


async def test_concurrent_writes_share_pushes(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        store = rig.meta()
        await store.write(created("r0"))
        before = pushes(server)
        await asyncio.gather(*(store.write(created(f"r{n}")) for n in range(1, 65)))
        assert pushes(server) - before <= 2
        assert await ids(rig) == {f"r{n}" for n in range(65)}


@pytest.mark.parametrize("reload", [True, False])
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(412, "PreconditionFailed", when="after"), id="412-after-success"),
        pytest.param(Fault(409, "ConditionalRequestConflict", when="after"), id="409-after-success"),
        pytest.param(Fault(when="after"), id="answer-lost"),
        pytest.param(Fault(500, "InternalError", when="after"), id="500-after-success"),
        pytest.param(Fault(503, "SlowDown"), id="slow-down"),
        pytest.param(Fault(409, "ConditionalRequestConflict"), id="409"),
        pytest.param(Fault(), id="reset"),
        pytest.param(Fault(412, "PreconditionFailed"), id="412-for-nothing"),
    ],
)
async def test_a_push_that_is_answered_badly_is_found_out(server: ScriptedS3, fault: Fault, reload: bool) -> None:
    async with opened(options_for(server.endpoint_url, auto_reload_on_conflict=reload)) as rig:
        store = rig.meta()
        first = created("r1")
        await store.write(first)
        server.script = on_push(fault)
        await store.write(revised(first))
        row = await store.get("r1")
        assert row is not None
        assert row.version == 2
        assert len(await store.list_revisions("r1")) == 2
        with pytest.raises(RevisionConflictError):
            await store.write(revised(first))


@pytest.mark.parametrize("when", ["instead", "after"])
async def test_the_first_push_of_all_is_found_out_too(server: ScriptedS3, when: str) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        server.script = on_push(Fault(when="after" if when == "after" else "instead"))
        await rig.meta().write(created("r1"))
        assert await ids(rig) == {"r1"}


async def test_a_lost_answer_under_a_later_foreign_write_is_found_in_the_history(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as one, opened(options_for(server.endpoint_url)) as two:
        first = created("r1")
        await one.meta().write(first)
        pushed = asyncio.Event()
        overtaken = asyncio.Event()

        def script(method: str, key: str, number: int) -> Fault | None:
            if method == "PUT" and key == KEY and not pushed.is_set():
                pushed.set()
                return Fault(when="after")
            return None

        server.script = script
        writing = asyncio.create_task(one.meta().write(revised(first)))
        await pushed.wait()
        # May come before or after the other looks: its commit id is in either version.
        await two.meta().get("r1")
        await two.meta().write(created("r2"))
        overtaken.set()
        await writing
        row = await one.meta().get("r1")
        assert row is not None
        assert row.version == 2
        assert await ids(one) == {"r1", "r2"}


async def test_a_push_that_lands_late_is_not_made_twice(server: ScriptedS3) -> None:
    """The first request is stuck on its way, times out here, and reaches the server behind our back."""
    stuck = Fault(delay=3.0)
    options = options_for(server.endpoint_url, read_timeout_seconds=0.5, operation_timeout_seconds=20.0)
    async with opened(options) as rig:
        store = rig.meta()
        first = created("r1")
        await store.write(first)
        server.script = on_push(stuck)
        await store.write(revised(first))
        await asyncio.sleep(3.2)
        assert len(await store.list_revisions("r1")) == 2
        await store.write(created("r2"))
        assert await ids(rig) == {"r1", "r2"}


async def test_what_nobody_can_tell_is_said_so(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, max_attempts=1)) as rig:
        store = rig.meta()
        await store.write(created("r1"))
        server.script = lambda method, key, number: Fault(when="after") if key == KEY else None
        with pytest.raises(OutcomeUnknownError):
            await store.write(created("r2"))
        server.script = lambda method, key, number: None
        # It had landed; the next call starts from what is there.
        with pytest.raises(DuplicateResourceError):
            await store.write(created("r2"))
        await store.write(created("r3"))
        assert await ids(rig) == {"r1", "r2", "r3"}


async def test_a_server_that_is_gone_stores_nothing_and_is_used_again(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, max_attempts=2)) as rig:
        store = rig.meta()
        await store.write(created("r1"))
        server.script = lambda method, key, number: Fault(503, "SlowDown") if key == KEY else None
        with pytest.raises(BackendUnavailable):
            await store.get("r1")
        server.script = lambda method, key, number: None
        assert await store.get("r1") is not None


async def test_a_refused_push_keeps_what_was_there(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, check_etag_on_read=False)) as rig:
        store = rig.meta()
        await store.write(created("r1"))
        server.script = on_push(Fault(403, "AccessDenied"))
        with pytest.raises(BackendError, match="s3:PutObject"):
            await store.write(created("r2"))
        assert await store.get("r2") is None
        await store.write(created("r2"))
        assert await ids(rig) == {"r1", "r2"}


async def test_a_foreign_write_is_replayed_over(server: ScriptedS3) -> None:
    options = options_for(server.endpoint_url, auto_reload_on_conflict=True, check_etag_on_read=False)
    async with opened(options) as one, opened(options) as two:
        row = created("r1")
        await one.meta().write(row)
        await two.meta().write(created("r2"))
        await two.meta().write(revised(row))
        taken = await asyncio.gather(
            one.meta().write(created("r3")),
            one.meta().write(revised(row)),
            one.meta().write(created("r2")),
            return_exceptions=True,
        )
        assert taken[0] is None
        assert isinstance(taken[1], RevisionConflictError)
        assert isinstance(taken[2], DuplicateResourceError)
        assert await ids(one) == {"r1", "r2", "r3"}


async def test_a_foreign_write_refuses_ours_once_without_reload(server: ScriptedS3) -> None:
    options = options_for(server.endpoint_url, check_etag_on_read=False)
    async with opened(options) as one, opened(options) as two:
        await one.meta().write(created("r1"))
        await two.meta().write(created("r2"))
        with pytest.raises(
            RevisionConflictError, match=r"'r3' was not written: another process .*auto_reload_on_conflict"
        ):
            await one.meta().write(created("r3"))
        assert await ids(one) == {"r1", "r2"}
        # The next call starts from what the other wrote.
        await one.meta().write(created("r3"))
        assert await one.meta().get("r2") is not None
        assert await ids(one) == {"r1", "r2", "r3"}


async def test_an_error_by_old_knowledge_is_checked_before_it_is_told(server: ScriptedS3) -> None:
    options = options_for(server.endpoint_url, check_etag_on_read=False)
    async with opened(options) as one, opened(options) as two:
        await one.meta().write(created("r1"))
        foreign = created("r2")
        await two.meta().write(foreign)
        await one.meta().write(revised(foreign))
        assert await one.meta().erase("r1")
        with pytest.raises(RevisionConflictError):
            await two.meta().erase("r1")
        assert await two.meta().erase("r1") is None
        with pytest.raises(ResourceNotFoundError):
            await two.meta().write(MetaWrite(created("nobody").meta, None, 1))


@pytest.mark.parametrize("check", [True, False])
async def test_reads_notice_foreign_writes_if_told_to(server: ScriptedS3, check: bool) -> None:
    async with (
        opened(options_for(server.endpoint_url, check_etag_on_read=check)) as one,
        opened(options_for(server.endpoint_url)) as two,
    ):
        await one.meta().write(created("r1"))
        await two.meta().write(created("r2"))
        assert (await one.meta().get("r2") is not None) is check
        await one.meta().sync()
        assert await one.meta().get("r2") is not None


async def test_reads_share_one_look_at_the_object(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        store = rig.meta()
        await store.write(created("r1"))
        server.requests.clear()
        await asyncio.gather(*(store.get("r1") for _ in range(64)))
        assert len(server.requests) <= 3
        assert ("GET", KEY) not in server.requests


async def test_without_auto_sync_writes_stay_here_until_sync(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, auto_sync=False)) as rig:
        store = rig.meta()
        await store.write(created("r1"))
        assert await store.get("r1") is not None
        assert await ids(rig) == set()
        await store.sync()
        assert await ids(rig) == {"r1"}
        await store.write(created("r2"))
    async with opened(options_for(server.endpoint_url)) as rig:
        assert await ids(rig) == {"r1", "r2"}, "close pushes"


async def test_without_auto_sync_and_reload_a_conflict_keeps_the_local_state(server: ScriptedS3) -> None:
    async with (
        opened(options_for(server.endpoint_url, auto_sync=False)) as one,
        opened(options_for(server.endpoint_url)) as two,
    ):
        store = one.meta()
        await two.meta().write(created("r0"))
        await store.write(created("r1"))
        await two.meta().write(created("r2"))
        with pytest.raises(RevisionConflictError):
            await store.sync()
        assert await store.get("r1") is not None, "the local write is still there"
        assert await store.get("r2") is None
        await store.discard()
        assert await store.get("r1") is None
        assert await store.get("r2") is not None


async def test_without_auto_sync_reload_replays_and_reports_what_conflicts(server: ScriptedS3) -> None:
    options = options_for(server.endpoint_url, auto_sync=False, auto_reload_on_conflict=True)
    async with opened(options) as one, opened(options_for(server.endpoint_url)) as two:
        store = one.meta()
        row = created("r0")
        await two.meta().write(row)
        await store.write(created("r1"))
        await store.write(revised(row))
        await two.meta().write(revised(row))
        with pytest.raises(RevisionConflictError) as caught:
            await store.sync()
        assert caught.value.resource_id == "r0"
        assert await ids(one) == {"r0", "r1"}
        await store.sync()


async def test_a_replay_that_is_cut_short_leaves_no_database_open(
    server: ScriptedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The foreign version was read, and will be read again: each takes the memory of the whole database."""
    opened_copies: list[Copy] = []
    closed: list[Copy] = []
    apply, close = Copy.apply, Copy.close

    def failing(copy: Copy, *_: Any, **__: Any) -> list[Any]:
        opened_copies.append(copy)
        raise MemoryError

    def noted(copy: Copy) -> None:
        closed.append(copy)
        close(copy)

    options = options_for(server.endpoint_url, auto_sync=False, auto_reload_on_conflict=True)
    async with opened(options) as one, opened(options_for(server.endpoint_url)) as two:
        store = one.meta()
        await store.write(created("r1"))
        await two.meta().write(created("r2"))
        monkeypatch.setattr(Copy, "apply", failing)
        monkeypatch.setattr(Copy, "close", noted)
        with pytest.raises(MemoryError):
            await store.sync()
        await until(lambda: bool(opened_copies) and opened_copies[0] in closed)
        monkeypatch.setattr(Copy, "apply", apply)
        await store.sync()
        assert await ids(one) == {"r1", "r2"}


async def push_and_lose_the_answer(server: ScriptedS3, store: S3MetaStore) -> None:
    """r1 is pushed, and r2 too, though nobody knows."""
    await store.write(created("r1"))
    await store.sync()
    await store.write(created("r2"))
    server.script = lambda method, key, number: Fault(when="after") if key == KEY else None
    with pytest.raises(OutcomeUnknownError):
        await store.sync()
    server.script = lambda method, key, number: None


async def test_without_auto_sync_a_lost_answer_does_not_repeat_the_writes(server: ScriptedS3) -> None:
    options = options_for(server.endpoint_url, auto_sync=False, max_attempts=1, auto_reload_on_conflict=True)
    async with opened(options) as rig:
        store = rig.meta()
        await push_and_lose_the_answer(server, store)
        await store.write(created("r3"))
        await store.sync()
        assert await ids(rig) == {"r1", "r2", "r3"}


@pytest.mark.parametrize("reload", [True, False])
async def test_without_auto_sync_a_read_after_a_lost_answer_finds_the_writes_once(
    server: ScriptedS3, reload: bool
) -> None:
    options = options_for(server.endpoint_url, auto_sync=False, max_attempts=1, auto_reload_on_conflict=reload)
    async with opened(options) as rig:
        store = rig.meta()
        await push_and_lose_the_answer(server, store)
        assert await store.get("r2") is not None
        await store.write(created("r3"))
        await store.sync()
        assert await ids(rig) == {"r1", "r2", "r3"}


@pytest.mark.parametrize("reload", [True, False])
async def test_without_auto_sync_a_push_that_lands_late_is_no_conflict(server: ScriptedS3, reload: bool) -> None:
    """The caller gave up on the first push, which reaches the server when the second one is on its way."""
    options = options_for(server.endpoint_url, auto_sync=False, auto_reload_on_conflict=reload)
    async with opened(options) as rig:
        store = rig.meta()
        await store.write(created("r1"))
        await store.sync()
        await store.write(created("r2"))
        server.script = on_push(Fault(delay=0.4), Fault(delay=0.8))
        before = pushes(server)
        first = asyncio.create_task(store.sync())
        await until(lambda: pushes(server) == before + 1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await store.write(created("r3"))
        await store.sync()
        assert await ids(rig) == {"r1", "r2", "r3"}


async def test_a_push_that_too_many_others_followed_is_said_to_be_unknown(
    server: ScriptedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta_database, "_COMMITS_KEPT", 3)
    options = options_for(server.endpoint_url, auto_reload_on_conflict=True)
    async with opened(options) as one, opened(options) as two:
        await one.meta().write(created("r0"))
        await two.meta().get("r0")
        looks = 0
        enough = asyncio.Event()

        def script(method: str, key: str, number: int) -> Fault | None:
            nonlocal looks
            if key != KEY or looks:
                return None
            looks += method == "GET"
            return Fault(when="after") if method == "PUT" else Fault(released=enough)

        server.script = script
        writing = asyncio.create_task(one.meta().write(created("r1")))
        await until(lambda: looks == 1)
        for number in range(2, 6):
            await two.meta().write(created(f"r{number}"))
        assert not writing.done()
        enough.set()
        with pytest.raises(OutcomeUnknownError):
            await writing
        assert await ids(one) == {f"r{number}" for number in range(6)}


async def test_sync_interval_pulls_and_pushes(server: ScriptedS3) -> None:
    options = options_for(server.endpoint_url, auto_sync=False, sync_interval=0.1, check_etag_on_read=False)
    async with opened(options) as one, opened(options_for(server.endpoint_url)) as two:

        async def pushed() -> bool:
            return await ids(one) == {"r1"}

        async def pulled() -> bool:
            return await one.meta().get("r2") is not None

        await one.meta().write(created("r1"))
        await until(pushed)
        await two.meta().write(created("r2"))
        await until(pulled)


async def test_a_periodic_sync_that_fails_is_told_once_and_goes_on(
    server: ScriptedS3, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "specstar")
    options = options_for(server.endpoint_url, auto_sync=False, sync_interval=0.05, max_attempts=1)
    async with opened(options) as rig:
        await rig.meta().write(created("r0"))
        await until(lambda: KEY in server.objects)
        server.script = lambda method, key, number: Fault(503, "SlowDown") if method == "PUT" else None
        await rig.meta().write(created("r1"))
        await until(lambda: sum("periodic sync failed" in record.message for record in caplog.records) >= 3)
        failed = [record.levelno for record in caplog.records if "periodic sync failed" in record.message]
        assert failed == [logging.WARNING] + [logging.DEBUG] * (len(failed) - 1)
        server.script = lambda method, key, number: None

        async def pushed() -> bool:
            return await ids(rig) == {"r0", "r1"}

        await until(pushed)


async def test_without_locking_the_last_push_wins(server: ScriptedS3) -> None:
    options = options_for(server.endpoint_url, enable_locking=False, check_etag_on_read=False)
    async with opened(options) as one, opened(options) as two:
        await one.meta().write(created("r1"))
        await two.meta().write(created("r2"))
        await one.meta().write(created("r3"))
        assert await ids(one) == {"r1", "r3"}


async def test_a_server_without_conditions_is_refused(server: ScriptedS3) -> None:
    server.honours_conditions = False
    async with opened(options_for(server.endpoint_url)) as rig:
        with pytest.raises(BackendError, match="enable_locking"):
            await rig.meta().write(created("r1"))
        assert server.objects == {}
    async with opened(options_for(server.endpoint_url, enable_locking=False)) as rig:
        await rig.meta().write(created("r1"))


@pytest.mark.parametrize("locking", [True, False])
async def test_a_deleted_database_is_not_made_again(server: ScriptedS3, locking: bool) -> None:
    async with opened(options_for(server.endpoint_url, enable_locking=locking)) as rig:
        store = rig.meta()
        await store.write(created("r1"))
        del server.objects[KEY]
        with pytest.raises(BackendError, match="deleted"):
            await store.write(created("r2"))
        with pytest.raises(BackendError, match="deleted"):
            await store.get("r1")
        assert KEY not in server.objects


async def test_what_is_no_database_of_ours_is_left_alone(server: ScriptedS3) -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE theirs (x)")
    foreign = connection.serialize()
    connection.close()
    for data in (foreign, b"no database", b"SQLite format 3\0" + b"\0" * 1000):
        server.put(KEY, data)
        async with opened(options_for(server.endpoint_url)) as rig:
            with pytest.raises(SchemaVersionError):
                await rig.meta().write(created("r1"))
        assert server.objects[KEY].data == data


async def test_damaged_bytes_are_noticed(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        await rig.meta().write(created("r1"))
    held = server.objects[KEY]
    broken = bytearray(held.data)
    broken[-100] ^= 1
    server.put(KEY, bytes(broken), held.headers)
    async with opened(options_for(server.endpoint_url)) as rig:
        with pytest.raises(BackendError, match="checksum"):
            await rig.meta().get("r1")
    assert server.objects[KEY].data == bytes(broken)


async def test_a_cut_download_is_repeated(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        await rig.meta().write(created("r1"))
    cuts = [Fault(cut=True)]
    server.script = lambda method, key, number: cuts.pop() if cuts and method == "GET" and key == KEY else None
    async with opened(options_for(server.endpoint_url)) as rig:
        assert await rig.meta().get("r1") is not None
        assert not cuts


async def test_a_database_beyond_its_limit_refuses_only_the_writes_that_do_not_fit(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, max_meta_bytes=200_000)) as rig:
        store = rig.meta()
        results = await asyncio.gather(
            store.write(created("r1", name="small")),
            store.write(created("r2", name="x" * 300_000)),
            store.write(created("r3", name="small")),
            return_exceptions=True,
        )
        assert isinstance(results[1], LimitExceededError)
        assert results[0] is None
        assert results[2] is None
        assert await ids(rig) == {"r1", "r3"}


async def test_half_of_a_group_that_was_pushed_stays_acknowledged(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, max_meta_bytes=200_000, max_attempts=1)) as rig:
        store = rig.meta()
        await store.write(created("r0"))
        server.script = on_push(None, Fault(status=403))
        sizes = {"r1": 60_000, "r2": 60_000, "r3": 300_000, "r4": 10}
        results = await asyncio.gather(
            *(store.write(created(name, name="x" * size)) for name, size in sizes.items()), return_exceptions=True
        )
        assert results[:2] == [None, None]
        assert isinstance(results[2], LimitExceededError)
        assert isinstance(results[3], BackendError)
        assert await ids(rig) == {"r0", "r1", "r2"}


async def test_a_push_carries_no_more_than_batch_bytes(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, batch_bytes=64 << 10)) as rig:
        store = rig.meta()
        await store.write(created("r0"))
        rows = [created(f"r{n}", name="x" * 20_000) for n in range(1, 13)]
        for write in (
            lambda: asyncio.gather(*(store.write(row) for row in rows[:6])),
            lambda: store.write_many(rows[6:]),
        ):
            before = pushes(server)
            assert await write() == [None] * 6
            assert pushes(server) - before == 2
        before = pushes(server)
        # A larger row travels alone, and one that is refused leaves the pushes before it as they are.
        last = [created("r13"), created("r14", name="x" * 200_000), created("r0", name="x" * 60_000), created("r15")]
        results = await store.write_many(last)
        assert [type(result) for result in results] == [type(None), type(None), DuplicateResourceError, type(None)]
        assert pushes(server) - before == 3
        assert await ids(rig) == {f"r{n}" for n in range(16)}


async def test_portions_pushed_before_one_that_fails_stay_acknowledged(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, batch_bytes=64 << 10)) as rig:
        store = rig.meta()
        await store.write(created("r0"))
        server.script = on_push(None, Fault(status=403))
        results = await store.write_many([created(f"r{n}", name="x" * 40_000) for n in range(1, 4)])
        assert (results[0], results[2]) == (None, None)
        assert isinstance(results[1], BackendError)
        assert await ids(rig) == {"r0", "r1", "r3"}


async def test_what_cannot_be_encoded_is_refused_before_any_portion_is_pushed(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, batch_bytes=64 << 10)) as rig:
        store = rig.meta()
        await store.write(created("r0"))
        before = pushes(server)
        last = created("r3")
        last.meta.indexed_data["name"] = object()
        with pytest.raises(InvalidInputError):
            await store.write_many([*(created(f"r{n}", name="x" * 40_000) for n in range(1, 3)), last])
        assert pushes(server) == before
        assert await ids(rig) == {"r0"}


async def test_a_cancelled_caller_leaves_the_others_alone(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        store = rig.meta()
        await store.write(created("r0"))
        tasks = [asyncio.create_task(store.write(created(f"r{n}"))) for n in range(1, 9)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert await ids(rig) >= {f"r{n}" for n in range(9) if n != 4}


async def test_models_have_objects_of_their_own(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url, prefix="app")) as rig:
        await rig.meta(model("A")).write(created("r1"))
        await rig.meta(model("../B")).write(created("r1"))
        found = {key for key in server.objects if ".base/" not in key}
        assert found == {"bucket/app/meta/A.sqlite", "bucket/app/meta/.2E.2E.2FB.sqlite"}


@pytest.mark.parametrize("reload", [True, False])
async def test_a_writer_that_never_lost_does_not_starve_another(server: ScriptedS3, reload: bool) -> None:
    options = options_for(server.endpoint_url, auto_reload_on_conflict=reload)
    async with opened(options) as busy, opened(options) as other:
        first = busy.meta()
        await first.write(created("r0"))
        await other.meta().get("r0")
        server.script = lambda method, key, number: Fault(delay=0.01)
        stopped = False

        async def write_on(caller: int) -> None:
            number = 0
            while not stopped:
                number += 1
                with contextlib.suppress(RevisionConflictError):
                    await first.write(created(f"busy-{caller}-{number}"))

        async with asyncio.TaskGroup() as group:
            for caller in range(8):
                group.create_task(write_on(caller))
            # Raises if others were faster for as long as an operation may take.
            async with asyncio.timeout(options.operation_timeout_seconds):
                while True:
                    try:
                        await other.meta().write(created("r1"))
                        break
                    except RevisionConflictError:
                        await asyncio.sleep(0.005)
            stopped = True
        server.script = lambda method, key, number: None
        assert await ids(other) >= {"r1"}


async def test_without_auto_sync_nothing_is_acknowledged_that_could_not_be_pushed(server: ScriptedS3) -> None:
    options = options_for(server.endpoint_url, auto_sync=False, max_meta_bytes=200_000)
    async with opened(options) as rig:
        store = rig.meta()
        made: list[str] = []

        async def fill() -> None:
            while True:
                await store.write(created(name := f"r{len(made)}", name="x" * 500))
                made.append(name)

        with pytest.raises(LimitExceededError, match="max_meta_bytes"):
            await fill()
        assert len(made) > 20
        many = await store.write_many([created(f"m{number}", name="x" * 500) for number in range(10)])
        assert all(isinstance(error, LimitExceededError) for error in many)
        assert await store.erase("r0")
        await store.sync()
        assert await ids(rig) == set(made[1:])
