"""What an operator's policies do to the queues: a full one says so, and nothing that was confirmed is dropped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

import services
from specstar import Job, JobStatus, NoRetry, SpecStar
from specstar.backends.rabbitmq.queue import RabbitMQQueue
from specstar.errors import BackendError
from specstar.message_queue import JobQueue
from tests.conformance.jobs.harness import Mail, eventually, eventually_gives, workers
from tests.integration.rabbitmq.rig import message, open_rig, raw_channel, send_dead, take_and_ack

pytestmark = [pytest.mark.xdist_group("rabbitmq-faults"), pytest.mark.timeout(180)]
MEMORY = {"type": "memory"}
MOST = 5
FILLS = "it fills the queue"

SetPolicy = Callable[[str, dict[str, Any]], None]


@pytest.fixture
def set_policy(private_rabbitmq: services.RabbitMQServer) -> SetPolicy:
    """Sets the only policy of the broker, for queues of this test alone: the one that it replaces needs no removing."""

    def set_one(pattern: str, definition: dict[str, Any]) -> None:
        private_rabbitmq.ctl("set_policy", "of-the-test", pattern, json.dumps(definition), "--apply-to", "queues")

    return set_one


def program(
    broker: services.RabbitMQServer, prefix: str, handle: Callable[[Job[Mail]], Any], **options: Any
) -> tuple[SpecStar, JobQueue[Mail]]:
    spec = SpecStar()
    rabbitmq = {"type": "rabbitmq", "options": {"amqp_url": broker.url, "queue_prefix": prefix, **options}}
    spec.configure(backend={"meta": MEMORY, "resource": MEMORY, "mq": rabbitmq})
    return spec, spec.add_job(Mail, handle, name="mails", max_retries=0)


@pytest.mark.parametrize(
    ("queue_type", "overflow"),
    [("classic", None), ("classic", "drop-head"), ("classic", "reject-publish"), ("quorum", None)],
)
async def test_a_full_queue_refuses_and_drops_nothing(
    private_rabbitmq: services.RabbitMQServer,
    queue_prefix: str,
    set_policy: SetPolicy,
    queue_type: str,
    overflow: str | None,
) -> None:
    """A policy that bounds the length of a queue has it drop the oldest messages, unless it or the queue says otherwise."""
    definition = {"max-length": MOST, **({"overflow": overflow} if overflow else {})}
    await asyncio.to_thread(set_policy, f"^{queue_prefix}", definition)
    ran: list[int] = []

    async def handle(job: Job[Mail]) -> None:
        ran.append(job.payload.number)

    spec, mails = program(private_rabbitmq, queue_prefix, handle, queue_type=queue_type)
    async with spec:
        confirmed: list[int] = []
        refused: list[str] = []
        for number in range(4 * MOST):
            try:
                await mails.enqueue(Mail(number=number))
                confirmed.append(number)
            except BackendError as error:
                refused.append(str(error))
        assert all("the queue is full" in text for text in refused)
        assert MOST <= len(confirmed) < 2 * MOST
        async with workers(spec):
            await eventually_gives(lambda: _ended(mails, len(confirmed)))
        assert sorted(ran) == confirmed
        assert await mails.count() == len(confirmed)


async def _ended(mails: JobQueue[Mail], count: int) -> bool:
    return await mails.count(status=JobStatus.succeeded) == count


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
@pytest.mark.parametrize("keep_state", [True, False])
@pytest.mark.parametrize("partition_key", [None, "k"])
async def test_jobs_that_failed_wait_aside_until_there_is_room_for_their_dead_letters(
    private_rabbitmq: services.RabbitMQServer,
    queue_prefix: str,
    set_policy: SetPolicy,
    caplog: pytest.LogCaptureFixture,
    queue_type: str,
    keep_state: bool,
    partition_key: str | None,
) -> None:
    """More of them than a worker has room for: jobs behind them run, none of them runs twice, and all can be sent back."""
    await asyncio.to_thread(set_policy, f"^{queue_prefix}mails:dead$", {"max-length": 1})
    ran: list[int] = []
    fails = [True]

    async def handle(job: Job[Mail]) -> None:
        ran.append(job.payload.number)
        if fails and job.payload.number < 2 * MOST:
            raise NoRetry("no")

    spec = SpecStar()
    options = {"amqp_url": private_rabbitmq.url, "queue_prefix": queue_prefix, "queue_type": queue_type}
    rabbitmq = {"type": "rabbitmq", "options": {**options, "partition_shards": 1, "partition_prefetch": 2}}
    spec.configure(backend={"meta": MEMORY, "resource": MEMORY, "mq": rabbitmq})
    mails = spec.add_job(Mail, handle, name="mails", max_retries=3, keep_state=keep_state)
    async with spec:
        queue = mails._messages()
        assert isinstance(queue, RabbitMQQueue)
        await _fill(queue)
        everyone = list(range(3 * MOST))
        sent = await mails.enqueue_many([Mail(number=number) for number in everyone], partition_key=partition_key)
        async with workers(spec, concurrency=2):
            await eventually(lambda: sorted(ran) == everyone, within=60)
            await eventually(lambda: "cannot go to the dead letters" in caplog.text)
            await asyncio.to_thread(set_policy, "^of nobody$", {"max-length": MOST})
            await eventually_gives(lambda: _are_parked(queue, 2 * MOST), within=60)
            assert caplog.text.count("cannot go to the dead letters") == 1
            assert "comes again" not in caplog.text
            letters = [letter for letter in await queue.dead_letters() if letter.reason != FILLS]
            assert {letter.reason for letter in letters} == {"NoRetry: no"}
            assert {letter.message.attempts for letter in letters} == {1}
            assert {letter.message.id for letter in letters} == {job.job_id for job in sent[: 2 * MOST]}
            if keep_state:
                assert await mails.count(status=JobStatus.failed) == 2 * MOST
            fails.clear()
            assert sorted(ran) == everyone
            assert await mails.requeue_dead([letter.message.id for letter in letters]) == 2 * MOST
            await eventually(lambda: len(ran) >= 5 * MOST)
            if keep_state:
                await eventually_gives(lambda: _ended(mails, 3 * MOST))
        assert sorted(ran[3 * MOST :]) == list(range(2 * MOST))
        assert await queue.depth() == 0


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
@pytest.mark.parametrize("partition_key", [None, "k"])
async def test_what_nobody_can_read_stands_in_no_jobs_way_while_the_dead_letters_are_full(
    private_rabbitmq: services.RabbitMQServer,
    queue_prefix: str,
    set_policy: SetPolicy,
    caplog: pytest.LogCaptureFixture,
    queue_type: str,
    partition_key: str | None,
) -> None:
    """More of it than a worker has room for, before the jobs: neither an envelope of ours, nor a job in one."""
    ran: list[int] = []

    async def handle(job: Job[Mail]) -> None:
        ran.append(job.payload.number)

    spec, mails = program(
        private_rabbitmq, queue_prefix, handle, queue_type=queue_type, partition_shards=1, partition_prefetch=2
    )
    await asyncio.to_thread(set_policy, f"^{queue_prefix}mails:dead$", {"max-length": 1})
    async with spec:
        queue = mails._messages()
        assert isinstance(queue, RabbitMQQueue)
        source = queue.queues.main if partition_key is None else queue.queues.shard(0)
        foreign = [f"not ours {number}".encode() for number in range(MOST)]
        ours = [f"not a job {number}" for number in range(MOST)]
        await _fill(queue)
        await queue.publish_many([message(identity, partition_key=partition_key) for identity in ours])
        async with raw_channel(private_rabbitmq.url) as channel:
            for body in foreign:
                await channel.basic_publish(body, routing_key=source.name)
        await mails.enqueue_many([Mail(number=number) for number in range(MOST)], partition_key=partition_key)
        async with workers(spec, concurrency=2):
            await eventually_gives(lambda: _ended(mails, MOST))
            assert sorted(ran) == list(range(MOST))
            await eventually(lambda: "cannot go to the dead letters" in caplog.text)
            # As often as it was tried: it told of it once.
            assert caplog.text.count("cannot go to the dead letters") == 1
            await asyncio.to_thread(set_policy, "^of nobody$", {"max-length": MOST})
            await eventually_gives(lambda: _are_parked(queue, 2 * MOST), within=60)
        parked = {letter.message.body for letter in await queue.dead_letters() if letter.reason != FILLS}
        assert parked == {*foreign, *(message(identity).body for identity in ours)}
        assert await queue.depth() == 0


async def _fill(queue: RabbitMQQueue) -> None:
    """A queue takes some more than its bound at first."""
    for number in range(4 * MOST):
        try:
            await send_dead(queue, message(number), FILLS)
        except BackendError:
            return
    raise AssertionError("the queue takes more than its bound")


async def _are_parked(queue: RabbitMQQueue, count: int) -> bool:
    return sum(letter.reason != FILLS for letter in await queue.dead_letters()) == count


async def test_a_queue_that_is_there_without_it_is_used_as_it_is(
    private_rabbitmq: services.RabbitMQServer, queue_prefix: str
) -> None:
    async with open_rig(private_rabbitmq.url, queue_prefix) as rig, raw_channel(private_rabbitmq.url) as channel:
        queue = rig.queue()
        for spec in (queue.queues.main, queue.queues.dead, queue.queues.shard(0)):
            arguments = spec.without(["x-overflow", "x-queue-mode"]).arguments
            await channel.queue_declare(spec.name, durable=True, arguments=arguments)
        await queue.publish_many([message(number, partition_key=f"k{number}") for number in range(20)])
        await queue.publish(message(20))
        async with queue.consume(prefetch=30) as consumer:
            assert {item.id for item in await take_and_ack(consumer, 21)} == set(map(str, range(21)))
