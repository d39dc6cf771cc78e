"""Messages and dead letters that are unlike what specstar sends now: from another limit, another program, another version."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pamqp.commands import Basic

from specstar import Job, JobStatus, SpecStar
from specstar.message_queue import JobQueue
from tests.conformance.jobs.harness import Mail, dead_jobs, eventually_gives, workers
from tests.integration.rabbitmq.rig import (
    Rig,
    message,
    nothing_more,
    open_rig,
    raw_channel,
    send_dead,
    take,
    take_and_ack,
)

MOMENT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


async def test_a_dead_letter_over_the_present_limit_goes_back_to_work(amqp_url: str, queue_prefix: str) -> None:
    async with open_rig(amqp_url, queue_prefix, max_message_bytes=2000) as rig:
        queue = rig.queue()
        for number in range(3):
            await send_dead(queue, message(number, body=b"b" * (5000 if number == 1 else 10)), "why")
        assert await queue.requeue_dead() == 3
        assert await queue.dead_letters() == []
        async with queue.consume(prefetch=3) as consumer:
            assert {found.id for found in await take_and_ack(consumer, 3)} == {"0", "1", "2"}


async def test_a_message_with_a_priority_out_of_range_can_be_tried_again(amqp_url: str, rig: Rig) -> None:
    queue = rig.queue()
    async with raw_channel(amqp_url) as channel, queue.consume(prefetch=1) as consumer:
        packed = msgspec.msgpack.encode([1, "odd", 0, 77, None, b""])
        await channel.basic_publish(packed, routing_key=queue.queues.names.main)
        delivery = await take(consumer)
        await delivery.retry(delivery.message, delay=0)
        assert [found.id for found in await take_and_ack(consumer, 1)] == ["odd"]
        assert await nothing_more(consumer)


@pytest.mark.parametrize(
    ("headers", "reason", "time"),
    [
        ({"x-specstar-reason": "r", "x-specstar-time": "yesterday"}, "r", None),
        ({"x-specstar-reason": "r", "x-specstar-time": MOMENT}, "r", MOMENT),
        ({"x-specstar-reason": "r", "x-specstar-time": 2**60}, "r", None),
        ({"x-specstar-reason": 7}, "7", None),
        ({"x-death": ["a"]}, "parked by the broker: unknown", None),
        ({"x-death": {"reason": "expired"}}, "parked by the broker: unknown", None),
        ({"x-death": [{"reason": "expired", "time": "yesterday"}]}, "parked by the broker: expired", None),
        ({"x-death": [{"reason": "expired", "time": MOMENT}]}, "parked by the broker: expired", MOMENT),
    ],
)
async def test_odd_headers_stand_in_nobodys_way(
    amqp_url: str, rig: Rig, headers: dict[str, Any], reason: str, time: datetime | None
) -> None:
    queue = rig.queue()
    await send_dead(queue, message("ours"), "why")
    async with raw_channel(amqp_url) as channel:
        await channel.basic_publish(
            b"odd", routing_key=queue.queues.names.dead, properties=Basic.Properties(headers=headers)
        )
    ours, odd = await queue.dead_letters()
    assert odd.reason == reason
    assert time in {None, odd.time}
    assert await queue.requeue_dead([ours.message.id]) == 1
    assert await queue.purge_dead([odd.message.id]) == 1


async def test_a_job_whose_message_is_damaged_has_failed(amqp_url: str, queue_prefix: str, tmp_path: Path) -> None:
    """Also when its dead letter is sent back to work."""
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path)}}
    rabbitmq = {"type": "rabbitmq", "options": {"amqp_url": amqp_url, "queue_prefix": queue_prefix}}
    spec = SpecStar()
    spec.configure(backend={"meta": disk, "resource": disk, "mq": rabbitmq})

    @spec.job
    async def mails(job: Job[Mail]) -> None: ...

    async with spec:
        sent = await mails.enqueue(Mail())
        messages = mails._messages()
        await messages.purge()
        await messages.publish(message(sent.job_id, body=b"{"))
        async with workers(spec):
            await _failed(mails, sent.job_id)
        for _ in range(2):
            assert await mails.requeue_dead([sent.job_id]) == 1
            assert (await mails.get(sent.job_id)).status is JobStatus.pending
            async with workers(spec):
                await _failed(mails, sent.job_id)
        assert await mails.purge_dead() == 1


async def _failed(queue: JobQueue[Mail], job_id: str) -> None:
    ended = await queue.wait(job_id, timeout=20)
    assert ended.status is JobStatus.failed
    assert (ended.error or "").count("DecodeError") == 1
    assert [dead.job_id for dead in await dead_jobs(queue)] == [job_id]


async def test_a_damaged_message_fails_no_job_that_goes_on(amqp_url: str, queue_prefix: str, tmp_path: Path) -> None:
    """Nor one of another queue."""
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path)}}
    rabbitmq = {"type": "rabbitmq", "options": {"amqp_url": amqp_url, "queue_prefix": queue_prefix}}
    spec = SpecStar()
    spec.configure(backend={"meta": disk, "resource": disk, "mq": rabbitmq})
    may_end = asyncio.Event()

    @spec.job
    async def mails(job: Job[Mail]) -> None:
        await may_end.wait()

    @spec.job
    async def others(job: Job[Mail]) -> None: ...

    async with spec:
        other = await others.enqueue(Mail())
        await others._messages().purge()
        async with workers(spec):
            sent = await mails.enqueue(Mail())
            await eventually_gives(lambda: mails.count(status=JobStatus.running))
            for job_id in (sent.job_id, other.job_id):
                await mails._messages().publish(message(job_id, body=b"{"))
            await dead_jobs(mails, 2)
            assert (await others.get(other.job_id)).status is JobStatus.pending
            may_end.set()
            assert (await mails.wait(sent.job_id, timeout=20)).status is JobStatus.succeeded
