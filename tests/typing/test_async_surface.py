"""The types that editors and checkers see on the asynchronous surface. Checked by mypy and pyright; it runs too."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from pathlib import Path
from typing import Any, assert_type

from specstar import CopyReport, Job, JobStatus, Metrics, Resource, RevisionInfo, SpecStar
from specstar.message_queue import DeadJob, JobQueue
from specstar.query import QB
from specstar.resource_manager import ResourceManager
from specstar.roles import BlobInfo, ResourceMeta, UploadSession
from tests.typing.declared import MEMORY, Email, Handler, Note, Receipt, User, plain_receipt_of, receipt_of


def memory_spec() -> SpecStar:
    spec = SpecStar()
    spec.configure(backend=MEMORY)
    return spec


async def test_resources() -> None:
    async with memory_spec() as spec:
        assert_type(spec, SpecStar)
        users = assert_type(spec.add_model(User, indexed_fields=["age"]), ResourceManager[User])
        assert_type(spec.add_model(Note), ResourceManager[Note])
        assert_type(spec.get_resource_manager(User), ResourceManager[User])
        info = assert_type(await users.create(User("Ada", 36)), RevisionInfo)
        assert_type(await users.create_many([User("Alan"), User("Grace")]), list[RevisionInfo])
        found = assert_type(await users.get(info.resource_id), Resource[User])
        assert_type(found.data, User)
        assert_type(found.meta, ResourceMeta)
        assert_type(found.info, RevisionInfo)
        assert_type(await users.get_many([info.resource_id]), list[Resource[User] | None])
        assert_type(await users.exists(info.resource_id), bool)
        assert_type(await users.update(info.resource_id, User("Ada", 37)), RevisionInfo)
        assert_type(await users.patch(info.resource_id, {"age": 38}), RevisionInfo)
        assert_type(await users.delete(info.resource_id), ResourceMeta)
        assert_type(await users.restore(info.resource_id), ResourceMeta)
        page = await users.search((QB["age"] >= 18) & (QB["age"] < 99), sort=["-age"], limit=5)
        assert_type([item.data for item in page], list[User])
        assert_type(page.cursor, str | None)
        assert_type(users.iter(), AsyncIterator[Resource[User]])
        assert_type([item.data.age async for item in users.iter(QB["age"] >= 0)], list[int])
        assert_type(await users.count(), int)
        assert_type(await users.permanently_delete(info.resource_id), None)


async def test_blobs(tmp_path: Path) -> None:
    async with memory_spec() as spec:
        blob = assert_type(await spec.blobs.put(b"text"), BlobInfo)
        assert_type(await spec.blobs.get(blob.file_id), bytes)
        assert_type(await spec.blobs.save(blob.file_id, tmp_path / "saved"), BlobInfo)
        async with spec.blobs.open(blob.file_id) as chunks:
            assert_type(chunks.info, BlobInfo)
            assert_type([chunk async for chunk in chunks], list[bytes])
        assert_type(await spec.blobs.url(blob.file_id), str | None)
        assert_type(await spec.blobs.create_upload(), UploadSession)


async def test_jobs() -> None:
    async with memory_spec() as spec:

        @spec.job
        async def send(job: Job[Email]) -> Receipt:
            return Receipt(len(job.payload.to))

        @spec.job(max_retries=5, timeout=1.0)
        async def send_later(job: Job[Email]) -> Receipt | None:
            return None

        @spec.job
        def send_plainly(job: Job[Email]) -> Receipt:
            return Receipt(len(job.payload.to))

        @spec.job(max_retries=5, timeout=1.0)
        def send_quietly(job: Job[Email]) -> None:
            assert_type(job.payload, Email)
            assert_type(job.result, Any)

        @spec.job
        def hand_on(job: Job[Email]) -> Awaitable[Receipt]:
            return receipt_of(job)

        @spec.job(result_type=Receipt)
        def send_somehow(job: Job[Email]) -> object:
            return {"length": len(job.payload.to)}

        @spec.job(result_type=Receipt | None)
        def send_perhaps(job: Job[Email]) -> object:
            return None

        assert_type(send, JobQueue[Email, Receipt])
        assert_type(send_later, JobQueue[Email, Receipt | None])
        assert_type(send_plainly, JobQueue[Email, Receipt])
        assert_type(send_quietly, JobQueue[Email, None])
        assert_type(hand_on, JobQueue[Email, Receipt])
        assert_type(send_somehow, JobQueue[Email, Receipt])
        assert_type(send_perhaps, JobQueue[Email])

        @spec.job(cron="0 6 * * mon-fri", timezone="Europe/Berlin", every_payload=Email("ada@example.com"))
        def send_daily(job: Job[Email]) -> None:
            assert_type(job.payload, Email)

        assert_type(send_daily, JobQueue[Email, None])
        assert_type(send_daily.cron, str | None)
        assert_type(send_daily.timezone, str | None)
        assert_type(send_daily.every, float | None)
        assert_type(spec.metrics(), Metrics)
        assert_type(spec.metrics().jobs[0].failed, int)
        assert_type(spec.add_job(Email, receipt_of, name="receipts"), JobQueue[Email, Receipt])
        assert_type(spec.add_job(Email, plain_receipt_of, name="plain", max_retries=3), JobQueue[Email, Receipt])
        assert_type(spec.add_job(User, lambda job: job.payload.name, name="greet"), JobQueue[User, str])
        assert_type(spec.add_job(User, Handler(), name="object"), JobQueue[User, int])
        assert_type(spec.add_job(User, Handler().plain, name="method"), JobQueue[User, str])
        assert_type(spec.add_job(User, Handler(), name="said", result_type=float), JobQueue[User, float])
        assert_type(spec.add_job(User, Handler(), name="union", result_type=int | None), JobQueue[User])
        assert_type(spec.get_job_queue("send"), JobQueue[Any])
        job = assert_type(await send.enqueue(Email("ada@example.com"), delay=timedelta(minutes=1)), Job[Email, Receipt])
        assert_type(job.status, JobStatus)
        assert_type(job.payload, Email)
        assert_type(job.result, Receipt)
        assert_type(await send.enqueue_many([Email("a@example.com")], delay=60), list[Job[Email, Receipt]])
        assert_type(await send.get(job.job_id), Job[Email, Receipt])
        assert_type(await send.search(), list[Job[Email, Receipt]])
        assert_type(await send.list_dead(), list[DeadJob[Email]])
        assert_type(await send.cancel(job.job_id), bool)
        assert_type(await send.wait(job.job_id, timeout=5), Job[Email, Receipt])


async def results_are_typed(send: JobQueue[Email, Receipt], untold: JobQueue[Email]) -> None:
    """Never run."""
    assert_type((await send.wait("id")).result.length, int)
    assert_type((await untold.wait("id")).result, Any)
    takes_any_result(await send.get("id"), send)
    may_have_no_result: JobQueue[Email, Receipt | None] = send
    print(may_have_no_result)
    print((await send.get("id")).result.lenght)  # type: ignore[attr-defined]


def takes_any_result(job: Job[Email], queue: JobQueue[Email]) -> None:
    """With the result left out, an annotation means a job with any."""
    assert_type(job, Job[Email, Any])
    assert_type(queue, JobQueue[Email, Any])


async def copies(spec: SpecStar) -> None:
    """Never run."""
    assert_type(await spec.copy_to("backend.json", progress=lambda report: print(report.copied)), list[CopyReport])


async def mistakes_are_found(spec: SpecStar) -> None:
    """Never run: each line must be an error, or the checkers complain of a needless `ignore`."""
    users = spec.add_model(User)
    await users.create(Note("no user"))  # type: ignore[arg-type]
    await users.create(User("Ada"), resource_id=3)  # type: ignore[arg-type]
    print((await users.get("id")).data.nothing)  # type: ignore[attr-defined]
    spec.add_job(Email, lambda job: None, max_retrys=3)  # type: ignore[call-overload]
    spec.add_job(Email, lambda job: None, cron=60)  # type: ignore[call-overload]


def names_are_found() -> None:
    """Never run: a misspelt name is an error, not something of type Any."""
    from specstar import SpecStr  # type: ignore[attr-defined]  # noqa: F401
    from specstar.message_queue import JobQeue  # type: ignore[attr-defined]  # noqa: F401
    from specstar.resource_manager import ResourceManger  # type: ignore[attr-defined]  # noqa: F401
