"""Jobs whose state is in PostgreSQL: runs write no index, what went wrong is found by one, older tables are brought along."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from specstar import Job, JobStatus, NoRetry, SpecStar
from specstar.errors import BackendUnavailable
from specstar.message_queue import JobQueue
from specstar.message_queue.backend import job_model
from specstar.message_queue.job import JobRecord
from specstar.message_queue.stored_state import MAX_RESULT_IN_ROW, StoredJobState, with_revisions
from specstar.query import QB, build_query
from specstar.roles import ModelSpec, Storage
from tests.conformance.jobs.harness import Mail, eventually_gives, workers
from tests.faults.tools.tcp_proxy import TcpProxy
from tests.integration.postgres.rig import Rig, admin, open_rig

JOBS = 200
_INDEXES = "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass($1)"


def storage_of(rig: Rig, model: ModelSpec) -> Storage:
    storage = rig.provider.combined_storage(rig.context, rig.context, model)
    assert storage is not None
    return storage


def record_of(number: int) -> JobRecord:
    return JobRecord(
        job_id=f"job{number:06}",
        queue="mails",
        payload=msgspec.Raw(b'{"to": "someone@example.org"}'),
        created_time=datetime.now(UTC),
        revision_id=f"rev{number:06}",
    )


async def run_one(state: StoredJobState, record: JobRecord, status: JobStatus, result: bytes = b"null") -> None:
    snapshot = state.assume(record)
    begun = msgspec.structs.replace(
        record, status=JobStatus.running, attempts=1, worker="host:1:2/a.1", started_time=datetime.now(UTC)
    )
    marked = await state.mark(snapshot, begun)
    done = msgspec.structs.replace(begun, status=status, result=msgspec.Raw(result), finished_time=datetime.now(UTC))
    await state.settle(marked, done)


@pytest.fixture
def model() -> ModelSpec:
    return msgspec.structs.replace(job_model(), busy_rows=True)


async def test_jobs_run_and_are_read_with_all_their_outcomes(postgres_database: str) -> None:
    async def handler(job: Job[Mail]) -> str:
        if job.payload.to == "bad":
            raise NoRetry("no")
        if job.payload.to == "later" and job.attempts == 1:
            raise ValueError("not yet")
        return "x" * job.payload.number

    postgres = {"type": "postgres", "options": {"dsn": postgres_database}}
    mq = {"type": "simple", "options": {"retry_delay_seconds": 0}}
    spec = SpecStar()
    spec.configure(backend={"meta": postgres, "resource": postgres, "mq": mq})
    queue = spec.add_job(Mail, handler, name="mails", max_retries=1)
    async with spec:
        mails = [Mail("good", 3), Mail("good", 5000), Mail("bad"), Mail("later", 7)]
        sent = await queue.enqueue_many(mails)
        async with workers(spec):
            done = [await queue.wait(job.job_id, timeout=20) for job in sent]
        assert [job.result for job in done] == ["xxx", "x" * 5000, None, "x" * 7]
        assert [job.attempts for job in done] == [1, 1, 1, 2]
        assert [job.status for job in done] == [
            JobStatus[name] for name in ("succeeded", "succeeded", "failed", "succeeded")
        ]
        assert [job.job_id for job in await queue.search(status=JobStatus.failed)] == [sent[2].job_id]
        assert await queue.count(status=JobStatus.succeeded) == 3
        assert {job.job_id: job.result for job in await queue.search()} == {job.job_id: job.result for job in done}
        manager = spec.get_resource_manager(JobRecord)
        stored = await manager.get_many([job.job_id for job in sent])
        assert [resource.meta.revision_count for resource in stored if resource] == [1, 2, 2, 2]
        assert [resource.data.status for resource in stored if resource] == [job.status for job in done]


async def test_a_run_that_succeeds_stays_on_its_page_and_writes_no_index(
    rig: Rig, postgres_database: str, model: ModelSpec
) -> None:
    storage: Any = storage_of(rig, model)
    state = StoredJobState(storage, model.indexed_fields)
    records = [record_of(number) for number in range(JOBS)]
    assert not any(isinstance(made, Exception) for made in await state.create_many(records))
    await asyncio.gather(*(run_one(state, record, JobStatus.succeeded, b'"done"') for record in records))
    found = await state.search(None)
    assert {snapshot.record.status for snapshot in found} == {JobStatus.succeeded}
    assert {bytes(snapshot.record.result) for snapshot in found} == {b'"done"'}
    # Sessions tell their counts when they end, idle ones seldom.
    await rig.aclose()
    async with admin(postgres_database) as look:
        updates = hot = 0
        for _ in range(100):
            updates, hot = await look.fetchrow(
                "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = to_regclass($1)",
                storage._tables.names.meta,
            )
            if updates == 2 * JOBS:
                break
            await asyncio.sleep(0.1)
        # A version that another transaction may still see takes room.
        assert updates == 2 * JOBS
        assert hot >= JOBS
        assert await look.fetchval(f"SELECT count(*) FROM {storage._tables.names.revision}") == JOBS


async def test_updates_with_and_without_revisions_share_a_batch(rig: Rig, model: ModelSpec) -> None:
    storage: Any = storage_of(rig, model)
    state = StoredJobState(storage, model.indexed_fields)
    records = [record_of(number) for number in range(60)]
    await state.create_many(records)
    results = [b'"%s"' % (b"x" * (MAX_RESULT_IN_ROW if number % 2 else 1)) for number in range(60)]
    await asyncio.gather(
        *(run_one(state, record, JobStatus.succeeded, result) for record, result in zip(records, results, strict=True))
    )
    assert [bytes(found.record.result) for found in await state.search(None)] == results


async def test_tables_of_an_earlier_specstar_are_brought_along(
    rig: Rig, postgres_database: str, model: ModelSpec
) -> None:
    old: Any = storage_of(rig, job_model())
    state = StoredJobState(old, model.indexed_fields)
    records = [record_of(number) for number in range(6)]
    await state.create_many(records)
    for record, status in zip(records, [JobStatus.failed, JobStatus.cancelled, JobStatus.succeeded], strict=False):
        await run_one(state, record, status)
    meta = old._tables.names.meta
    async with open_rig(postgres_database) as newer, admin(postgres_database) as look:
        before = {row[0] for row in await look.fetch(_INDEXES, meta)}
        assert len(before) == 3
        storage: Any = storage_of(newer, model)
        state = StoredJobState(storage, model.indexed_fields)
        assert await state.count(None) == 6
        await asyncio.wait_for(storage._tables.indexed.wait(), 20)
        after = {row[0] for row in await look.fetch(_INDEXES, meta)}
        assert len(after - before) == 1
        assert len(after & before) == 1  # the primary key
        options = await look.fetchval("SELECT reloptions FROM pg_class WHERE oid = to_regclass($1)", meta)
        assert options == ["fillfactor=45"]
        await run_one(state, records[3], JobStatus.failed)
        found = [snapshot.record.job_id for snapshot in await state.search(None)]
        assert found == [record.job_id for record in records]
    # The next process finds all as it should be.
    async with open_rig(postgres_database) as last:
        again: Any = storage_of(last, model)
        await again.read("job000000")
        assert again._tables.indexed.is_set()


async def test_what_failed_is_found_by_an_index(rig: Rig, postgres_database: str, model: ModelSpec) -> None:
    storage: Any = storage_of(rig, model)
    await storage.read("none")
    names = storage._tables.names
    async with admin(postgres_database) as look:
        await look.execute(
            f"INSERT INTO {names.meta} SELECT 'j' || lpad(n::text, 6, '0'), 'v', CASE WHEN n % 500 = 0 THEN 2 ELSE 1 END, "
            "3, now(), now(), '', '', false, NULL, jsonb_build_object('queue', 'mails', 'status', "
            "CASE WHEN n % 500 = 0 THEN 'failed' ELSE 'succeeded' END) FROM generate_series(1, 50000) n"
        )
        await look.execute("VACUUM ANALYZE", timeout=100)
    condition = with_revisions((QB["queue"] == "mails") & (QB["status"] == "failed"))
    query = build_query(condition, fields=model.indexed_fields, sort=["-created_time"], limit=100)
    assert storage._tables._indexes[0].name in await storage.explain(query)
    assert await storage.count(condition) == 100


async def test_what_the_store_did_not_take_is_written_when_it_is_back(postgres_database: str) -> None:
    """Payloads that end with the process: it keeps the state of its jobs itself, and writes it behind."""
    begun, go_on = asyncio.Semaphore(0), asyncio.Event()

    async def handler(job: Job[Mail]) -> str:
        begun.release()
        await go_on.wait()
        return "done"

    async with TcpProxy.before(postgres_database) as proxy:
        spec = SpecStar()
        spec.configure(
            backend={
                "meta": {"type": "postgres", "options": {"dsn": proxy.url_of(postgres_database)}},
                "resource": {"type": "memory"},
                "mq": {"type": "simple"},
            }
        )
        queue = spec.add_job(Mail, handler, name="mails")
        async with spec:
            sent = await queue.enqueue_many([Mail("a"), Mail("b"), Mail("c")])
            async with workers(spec, concurrency=3):
                for _ in sent:
                    await begun.acquire()
                assert await queue.count(status=JobStatus.running) == 3
                await proxy.shut()
                await proxy.cut()
                go_on.set()
                assert [(await queue.wait(job.job_id, timeout=20)).result for job in sent] == ["done"] * 3
                with pytest.raises(BackendUnavailable):
                    await queue.count(status=JobStatus.running)
                await proxy.listen()
                await eventually_gives(lambda: _all_succeeded(queue, 3))
                assert {job.job_id for job in await queue.search()} == {job.job_id for job in sent}


async def _all_succeeded(queue: JobQueue[Mail], count: int) -> bool:
    try:
        return await queue.count(status=JobStatus.succeeded) == count
    except BackendUnavailable:
        return False
