"""What a broker will not take: a message over its own limit, and anything of a user without the write permission."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import services
from specstar import Job, JobStatus, NoRetry, SpecStar
from specstar.errors import BackendError, LimitExceededError
from specstar.message_queue import JobQueue
from tests.conformance.jobs.harness import Mail, dead_jobs, eventually_gives, workers
from tests.integration.rabbitmq.rig import message, nothing_more, open_rig, raw_channel, take, take_and_ack

pytestmark = [pytest.mark.xdist_group("rabbitmq-faults"), pytest.mark.timeout(180)]
LIMIT = 100_000
BIG = 2 * LIMIT


@pytest.fixture
def narrow(private_rabbitmq: services.RabbitMQServer) -> Iterator[None]:
    """While a test wants it, the broker takes less than specstar sends."""
    yield
    limit_to(private_rabbitmq, 128 << 20)


def limit_to(broker: services.RabbitMQServer, size: int) -> None:
    """For channels that are opened from now on."""
    broker.ctl("eval", f"application:set_env(rabbit, max_message_size, {size}).")


@pytest.mark.usefixtures("narrow")
async def test_a_message_over_the_limit_of_the_broker_is_refused_alone(
    private_rabbitmq: services.RabbitMQServer, queue_prefix: str
) -> None:
    await asyncio.to_thread(limit_to, private_rabbitmq, LIMIT)
    async with open_rig(private_rabbitmq.url, queue_prefix) as rig:
        queue = rig.queue()
        await queue.publish(message("first"))
        big = message("big", body=b"b" * BIG)
        results = await asyncio.gather(
            *[queue.publish(message(number)) for number in range(20)],
            queue.publish(big),
            *[queue.publish(message(number)) for number in range(20, 40)],
            queue.publish_many([message("many"), big]),
            return_exceptions=True,
        )
        refused = [result for result in results if result is not None]
        assert [type(error) for error in refused] == [LimitExceededError] * 2
        for error in refused:
            assert isinstance(error, LimitExceededError)
            assert error.limit == LIMIT < BIG < error.actual
            assert "max_message_size" in str(error)
        assert (await rig.connection()).reconnects == 0
        arrived: set[str] = set()
        async with queue.consume(prefetch=10) as consumer:
            while not arrived >= {"first", *map(str, range(40))}:
                arrived |= {found.id for found in await take_and_ack(consumer, 1)}
        assert "big" not in arrived


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("keep_state", [False, True])
async def test_a_job_that_the_broker_takes_back_no_more_ends(
    private_rabbitmq: services.RabbitMQServer, queue_prefix: str, tmp_path: Path, keep_state: bool, final: bool
) -> None:
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path)}}
    rabbitmq = {"type": "rabbitmq", "options": {"amqp_url": private_rabbitmq.url, "queue_prefix": queue_prefix}}
    runs = 0

    async def handle(job: Job[Mail]) -> None:
        nonlocal runs
        runs += 1
        raise NoRetry("no") if final else ValueError("no")

    def program() -> tuple[SpecStar, JobQueue[Mail]]:
        spec = SpecStar()
        spec.configure(backend={"meta": disk, "resource": disk, "mq": rabbitmq})
        return spec, spec.add_job(Mail, handle, name="mails", max_retries=2, retry_delay=0.05, keep_state=keep_state)

    spec, mails = program()
    async with spec:
        sent = await mails.enqueue(Mail("x" * BIG))
    await asyncio.to_thread(limit_to, private_rabbitmq, LIMIT)
    spec, mails = program()
    async with spec, workers(spec):
        await eventually_gives(lambda: _is_empty(private_rabbitmq, f"{queue_prefix}mails"))
        assert runs == 1
        assert await mails.list_dead() == []
        if keep_state:
            ended = await mails.wait(sent.job_id, timeout=10)
            assert ended.status is JobStatus.failed
            assert "no" in (ended.error or "")


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("keep_state", [False, True])
async def test_a_dead_letter_that_the_broker_takes_no_more_stays_alone(
    private_rabbitmq: services.RabbitMQServer, queue_prefix: str, tmp_path: Path, keep_state: bool
) -> None:
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path)}}
    rabbitmq = {"type": "rabbitmq", "options": {"amqp_url": private_rabbitmq.url, "queue_prefix": queue_prefix}}
    ran: list[int] = []
    fails = True

    async def handle(job: Job[Mail]) -> None:
        if fails:
            raise NoRetry("no")
        ran.append(job.payload.number)

    def program() -> tuple[SpecStar, JobQueue[Mail]]:
        spec = SpecStar()
        spec.configure(backend={"meta": disk, "resource": disk, "mq": rabbitmq})
        return spec, spec.add_job(Mail, handle, name="mails", keep_state=keep_state)

    spec, mails = program()
    async with spec, workers(spec):
        sent = await mails.enqueue_many([Mail("x" * (BIG if number == 2 else 5), number) for number in range(6)])
        await dead_jobs(mails, 6)
    fails = False
    await asyncio.to_thread(limit_to, private_rabbitmq, LIMIT)
    spec, mails = program()
    async with spec, workers(spec):
        with pytest.raises(LimitExceededError, match=rf"(?s){sent[2].job_id}.* 5 are sent.*max_message_size"):
            await mails.requeue_dead()
        await eventually_gives(lambda: _is_empty(private_rabbitmq, f"{queue_prefix}mails"))
        assert set(ran) == {0, 1, 3, 4, 5}
        assert [dead.job_id for dead in await mails.list_dead()] == [sent[2].job_id]
        if keep_state:
            assert (await mails.get(sent[2].job_id)).status is JobStatus.failed
            for job in (*sent[:2], *sent[3:]):
                assert (await mails.wait(job.job_id, timeout=10)).status is JobStatus.succeeded
        assert await mails.purge_dead([sent[2].job_id]) == 1


async def _is_empty(broker: services.RabbitMQServer, queue: str) -> bool:
    listed = await asyncio.to_thread(broker.ctl, "list_queues", "name", "messages")
    return f"{queue}\t0" in listed.splitlines()


@pytest.mark.usefixtures("narrow")
async def test_a_foreign_message_that_cannot_be_parked_is_dropped(
    private_rabbitmq: services.RabbitMQServer, queue_prefix: str
) -> None:
    async with (
        open_rig(private_rabbitmq.url, queue_prefix, keep=True) as rig,
        raw_channel(private_rabbitmq.url) as channel,
    ):
        queue = rig.queue()
        await queue.publish(message("before"))
        await channel.basic_publish(b"f" * BIG, routing_key=queue.queues.names.main)
        await queue.publish(message("after"))
    await asyncio.to_thread(limit_to, private_rabbitmq, LIMIT)
    async with open_rig(private_rabbitmq.url, queue_prefix) as rig:
        queue = rig.queue()
        async with queue.consume(prefetch=1) as consumer:
            assert [found.id for found in await take_and_ack(consumer, 2)] == ["before", "after"]
            assert await nothing_more(consumer)
        assert await queue.depth() == 0
        assert await queue.dead_letters() == []


async def test_a_user_who_may_not_write_is_told_so_at_once(
    private_rabbitmq: services.RabbitMQServer, queue_prefix: str
) -> None:
    def permit(writing: str) -> None:
        private_rabbitmq.ctl("set_permissions", "reader", ".*", writing, ".*")

    await asyncio.to_thread(private_rabbitmq.ctl, "add_user", "reader", "pw")
    await asyncio.to_thread(permit, ".*")
    url = f"amqp://reader:pw@{urlsplit(private_rabbitmq.url).netloc.rpartition('@')[2]}/"
    async with open_rig(url, queue_prefix) as rig:
        queue = rig.queue()
        await queue.publish(message("before"))
        async with queue.consume(prefetch=2) as consumer:
            before = await take(consumer)
            await asyncio.to_thread(permit, "")

            async def refused() -> BackendError | None:
                await asyncio.sleep(1.5)  # the broker forgets what it knows of permissions when a channel is idle
                try:
                    await queue.publish(message("one"))
                except BackendError as error:
                    return error
                return None

            errors = [await eventually_gives(refused)]
            for sending in (
                queue.publish_many([message("two"), message("three")]),
                before.retry(message("before"), delay=0),
            ):
                with pytest.raises(BackendError) as caught:
                    await sending
                errors.append(caught.value)
            for error in errors:
                assert type(error) is BackendError
                assert "write permission on amq.default" in str(error)
            await asyncio.to_thread(permit, ".*")
            await queue.publish(message("after"))
            arrived: set[str] = set()
            while not arrived >= {"before", "after"}:
                arrived |= {found.id for found in await take_and_ack(consumer, 1)}
            assert not arrived & {"two", "three"}
