"""A cluster of RabbitMQ goes on without one of its nodes, also for programs that start then."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from msgspec import Struct

import services
from specstar import Job, SpecStar
from specstar.errors import BackendUnavailable
from specstar.message_queue import WorkerStop

pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("rabbitmq-cluster")]


class Mail(Struct):
    number: int


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[services.RabbitMQServer]]:
    with services.rabbitmq_cluster(3) as nodes:
        yield nodes


async def send_and_work(url: str, *, queue_type: str, prefix: str) -> list[int]:
    """What a new program does: send a job at once, one that waits, and one of a partition, and run all three."""
    spec = SpecStar()
    ran: list[int] = []
    stop = WorkerStop()

    async def handler(job: Job[Mail]) -> None:
        ran.append(job.payload.number)
        if len(ran) == 3:
            stop.set()

    queue = spec.add_job(Mail, handler, name="mails", keep_state=False)
    options = {"amqp_url": url, "queue_type": queue_type, "queue_prefix": prefix}
    spec.configure(backend={"mq": {"type": "rabbitmq", "options": options}})
    async with spec:
        await queue.enqueue(Mail(1))
        await queue.enqueue(Mail(2), delay=0.3)
        await queue.enqueue(Mail(3), partition_key="a")
        # While a node is down, each deletion of a queue takes five seconds.
        async with asyncio.timeout(20):
            await spec.run_workers(stop=stop, handle_signals=False)
    return sorted(ran)


async def test_programs_that_start_while_a_node_is_down_send_and_work(
    nodes: list[services.RabbitMQServer], queue_prefix: str
) -> None:
    first, second, _ = nodes
    # Queues are made at the node that a program is connected to.
    for queue_type in ("quorum", "classic"):
        prefix = f"{queue_prefix}{queue_type}:"
        assert await send_and_work(second.url, queue_type=queue_type, prefix=prefix) == [1, 2, 3]
    await asyncio.to_thread(second.kill)
    try:
        assert await send_and_work(first.url, queue_type="quorum", prefix=f"{queue_prefix}quorum:") == [1, 2, 3]
        with pytest.raises(
            BackendUnavailable, match="back with its node, and with queue_type 'quorum' it would not go"
        ):
            await send_and_work(first.url, queue_type="classic", prefix=f"{queue_prefix}classic:")
    finally:
        await asyncio.to_thread(second.start)
    assert await send_and_work(first.url, queue_type="classic", prefix=f"{queue_prefix}classic:") == [1, 2, 3]
