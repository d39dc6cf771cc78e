"""What a sender that was cancelled, or that failed, leaves behind."""

from __future__ import annotations

from pathlib import Path

import anyio
import msgspec
import pytest

from specstar import Job, JobStatus, SpecStar
from specstar.errors import InvalidInputError
from specstar.message_queue import JobQueue
from specstar.message_queue.codec import decode_record, envelope
from specstar.message_queue.sender import message_of
from specstar.message_queue.stored_state import written
from tests.conformance.jobs.harness import workers


class Mail(msgspec.Struct):
    number: int


@pytest.fixture
def spec(tmp_path: Path) -> SpecStar:
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path)}}
    spec = SpecStar()
    spec.configure(backend={"meta": disk, "resource": disk, "mq": {"type": "simple"}})
    return spec


async def test_an_old_message_of_a_key_runs_the_job_that_has_the_key_now(spec: SpecStar) -> None:
    ran: list[int] = []

    async def mail(job: Job[Mail]) -> None:
        ran.append(job.payload.number)

    queue: JobQueue[Mail] = spec.add_job(Mail, mail)
    async with spec:
        # The message of a sender that was cancelled in the middle of sending it, and took its record back.
        old, _ = queue._sender.record(Mail(1), None, "key", None, None)
        await spec._gate.run(lambda: queue._sender.messages().publish(message_of(old)))
        job = await queue.enqueue(Mail(2), idempotency_key="key")
        assert job.job_id == old.job_id
        async with workers(spec):
            assert (await queue.wait(job.job_id, timeout=10)).status is JobStatus.succeeded
            while await queue.depth():  # noqa: ASYNC110
                await anyio.sleep(0.01)
        assert ran == [2]
        assert (await queue.get(job.job_id)).payload == Mail(2)


async def test_a_cancelled_sender_waits_for_its_record_before_it_takes_it_back(spec: SpecStar) -> None:
    """The write of the record lands late, as it may on a server: after the cancellation, and after the first erase."""

    async def mail(job: Job[Mail]) -> None: ...

    queue: JobQueue[Mail] = spec.add_job(Mail, mail)
    async with spec:
        assert not await queue.count()
        storage = spec.get_resource_manager("specstar.jobs")._slot.storage
        write, first = storage.write, anyio.Event()
        landed = anyio.Event()

        async def late(item: object) -> None:
            if first.is_set():
                await landed.wait()  # a second write of one id ends after the first
                await write(item)  # type: ignore[arg-type]
                return
            first.set()

            async def land() -> None:
                await anyio.sleep(0.05)
                await write(item)  # type: ignore[arg-type]
                landed.set()

            spec._gate.settle().spawn(land)
            await anyio.sleep_forever()

        storage.write = late  # type: ignore[method-assign]
        async with anyio.create_task_group() as group:
            group.start_soon(queue.enqueue, Mail(1))
            await first.wait()
            group.cancel_scope.cancel()
        assert landed.is_set()
        assert not await queue.count()


def test_two_writes_of_a_new_record_never_share_a_payload(spec: SpecStar) -> None:
    async def mail(job: Job[Mail]) -> None: ...

    queue: JobQueue[Mail] = spec.add_job(Mail, mail)
    record, _ = queue._sender.record(Mail(1), None, None, None, None)
    revisions = [written(record, None, revision_id=record.revision_id)[0].change.revision for _ in range(2)]
    assert revisions[0] is not None
    assert revisions[1] is not None
    assert revisions[0].revision_id == revisions[1].revision_id == record.revision_id
    assert revisions[0].payload_id != revisions[1].payload_id


async def test_the_record_of_a_job_that_waits_is_at_hand_until_something_happens_to_it() -> None:
    async def mail(job: Job[Mail]) -> None: ...

    memory = {"type": "memory"}
    spec = SpecStar()
    spec.configure(backend={"meta": memory, "resource": memory, "mq": {"type": "simple"}})
    queue: JobQueue[Mail] = spec.add_job(Mail, mail)
    async with spec:
        job = await queue.enqueue(Mail(1))
        state = queue._state()
        assert state is not None
        record = state.waiting(job.job_id)
        assert record is not None
        assert decode_record(envelope(record), job_id=job.job_id) == record
        assert await queue.cancel(job.job_id)
        assert state.waiting(job.job_id) is None
        assert state.waiting("unknown") is None


async def test_which_of_several_payloads_is_wrong_is_said(spec: SpecStar) -> None:
    def mail(job: Job[Mail]) -> None: ...

    queue: JobQueue[Mail] = spec.add_job(Mail, mail)
    wrong = [Mail(1), Mail(2), Mail("three")]  # type: ignore[arg-type]
    async with spec:
        with pytest.raises(
            InvalidInputError, match=r"Expected `int`, got `str` - at `\$\.number` \(in payloads\[2\]\)$"
        ):
            await queue.enqueue_many(wrong)
        with pytest.raises(
            InvalidInputError, match=r"^delay must be from 0 to 31,536,000 seconds, or a timedelta, not -1$"
        ):
            await queue.enqueue_many([Mail(1)], delay=-1)
        assert (await queue.count(), await queue.depth()) == (0, 0)
