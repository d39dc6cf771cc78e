"""What the log says of a broker that is away: a line, not one for each kind of job and each try."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import anyio
import pytest

from specstar import Job, JobStatus, SpecStar
from specstar.message_queue import JobQueue
from tests.conformance.jobs.harness import Mail, eventually, workers
from tests.faults.tools.tcp_proxy import TcpProxy

KINDS = 4


@pytest.fixture
async def proxy(amqp_url: str) -> AsyncIterator[TcpProxy]:
    async with TcpProxy.before(amqp_url) as proxy:
        yield proxy


def told(caplog: pytest.LogCaptureFixture, level: int, *parts: str) -> list[str]:
    texts = [record.getMessage() for record in caplog.records if record.levelno == level and record.name == "specstar"]
    return [text for text in texts if all(part in text for part in parts)]


async def test_a_burst_waits_for_a_broker_that_is_away(proxy: TcpProxy, amqp_url: str, queue_prefix: str) -> None:
    memory = {"type": "memory"}
    options = {"amqp_url": proxy.url_of(amqp_url), "queue_prefix": queue_prefix, "operation_timeout_seconds": 0.5}
    spec = SpecStar()
    spec.configure(backend={"meta": memory, "resource": memory, "mq": {"type": "rabbitmq", "options": options}})

    async def handle(job: Job[Mail]) -> None: ...

    queue = spec.add_job(Mail, handle, name="mails")
    async with spec:
        sent = await queue.enqueue(Mail())
        await proxy.shut()
        await proxy.cut()
        ended = anyio.Event()

        async def burst() -> None:
            await spec.run_workers(burst=True, handle_signals=False)
            ended.set()

        async with anyio.create_task_group() as group:
            group.start_soon(burst)
            await anyio.sleep(2.5)
            assert not ended.is_set()
            await proxy.listen()
            with anyio.fail_after(30):
                await ended.wait()
        assert (await queue.get(sent.job_id)).status is JobStatus.succeeded


@pytest.mark.parametrize("at_the_start", [True, False])
async def test_an_outage_is_told_once_and_its_end_too(
    proxy: TcpProxy, amqp_url: str, queue_prefix: str, caplog: pytest.LogCaptureFixture, at_the_start: bool
) -> None:
    caplog.set_level(logging.INFO, "specstar")
    memory = {"type": "memory"}
    options = {"amqp_url": proxy.url_of(amqp_url), "queue_prefix": queue_prefix, "operation_timeout_seconds": 0.5}
    spec = SpecStar()
    spec.configure(backend={"meta": memory, "resource": memory, "mq": {"type": "rabbitmq", "options": options}})
    ran: list[str] = []

    async def handle(job: Job[Mail]) -> None:
        ran.append(job.queue)

    queues: list[JobQueue[Mail]] = [
        spec.add_job(Mail, handle, name=f"kind{number}", keep_state=False) for number in range(KINDS)
    ]
    if at_the_start:
        await proxy.shut()
    async with spec, workers(spec):
        if not at_the_start:
            for queue in queues:
                await queue.enqueue(Mail())
            await eventually(lambda: len(ran) == KINDS)
            await proxy.shut()
            await proxy.cut()
        await anyio.sleep(2.5)
        away = [*told(caplog, logging.WARNING, "no broker"), *told(caplog, logging.WARNING, "connecting to")]
        assert len(away) == 1, away
        assert not told(caplog, logging.WARNING, "consuming")
        await proxy.listen()
        for queue in queues:
            await queue.enqueue(Mail())
        await eventually(lambda: set(ran) == {queue.name for queue in queues})
        await eventually(lambda: told(caplog, logging.INFO, "again, after"))
