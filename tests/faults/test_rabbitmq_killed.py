"""A RabbitMQ node is killed under load on both sides, and raises its memory alarm."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import services
from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.job_load import JobLoad, job_load

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def test_a_memory_alarm_stops_senders_and_not_workers(
    private_rabbitmq: services.RabbitMQServer, queue_prefix: str, figures: Figures
) -> None:
    """With a prefetch of 4, jobs beyond the first four arrive only if acknowledgements get through."""
    figures.name = "RabbitMQ: memory alarm"
    async with job_load(figures, private_rabbitmq.url, queue_prefix, concurrency=4) as load:
        for _ in range(fault_count(1, share=0.02)):
            load.gate.clear()
            for number in range(24):
                # Those that fail once have to be sent again, which the alarm forbids: they come back and run after it.
                assert await load.enqueue(load.kept if number % 2 else load.plain, fails=number % 8 == 0)
            await alarm(private_rabbitmq, on=True)
            try:
                figures.faults += 1
                # Now all that publishes is blocked.
                assert not any(await asyncio.gather(*(load.enqueue(queue) for queue in (load.kept, load.plain))))
                load.gate.set()
                with figures.stall():
                    await load.until(lambda: load.confirmed - load.failing <= load.done, 30.0)
            finally:
                load.gate.set()
                await alarm(private_rabbitmq, on=False)
            async with load.sending(2):
                await load.progress(30.0)
        await load.finished()
    assert any("blocks publishers" in text for text in load.refused), load.refused


async def alarm(broker: services.RabbitMQServer, *, on: bool) -> None:
    await asyncio.to_thread(broker.ctl, "set_vm_memory_high_watermark", "0.0000001" if on else "0.4")


async def test_a_node_is_killed_under_load(
    private_rabbitmq: services.RabbitMQServer, queue_prefix: str, figures: Figures
) -> None:
    figures.name = "RabbitMQ: node killed with kill -9"
    async with job_load(figures, private_rabbitmq.url, queue_prefix) as load:
        await kill_under_load(private_rabbitmq, load, figures)
        await load.finished()


@pytest.mark.parametrize("delay_queue_type", ["quorum", "classic"])
async def test_a_killed_node_loses_no_job_that_waited(
    private_rabbitmq: services.RabbitMQServer,
    queue_prefix: str,
    figures: Figures,
    tmp_path: Path,
    delay_queue_type: str,
) -> None:
    """Nearly all jobs are delayed, and most of them wait for a slow worker when the node is killed.

    What moves from one classic queue to another is on disk only when that one confirms something else. Workers send such
    jobs again from their state once the node is back. Those without state are counted as lost (docs/rabbitmq.md), also
    what a worker had in hand: it waits a second.
    """
    figures.name = f"RabbitMQ: node killed with kill -9, jobs that waited in {delay_queue_type} queues"
    state = {"type": "disk", "options": {"rootdir": str(tmp_path)}}
    async with job_load(
        figures,
        private_rabbitmq.url,
        queue_prefix,
        concurrency=2,
        state=state,
        delay_queue_type=delay_queue_type,
    ) as load:
        load.work_seconds = 0.01
        await kill_under_load(private_rabbitmq, load, figures, delayed=0.9)
        load.work_seconds = 0.0
        await load.finished(may_be_lost=lambda op: delay_queue_type == "classic" and op.startswith("plain-"))


async def kill_under_load(
    broker: services.RabbitMQServer, load: JobLoad, figures: Figures, *, delayed: float = 0.2, failing: float = 0.1
) -> None:
    async with load.sending(delayed=delayed, failing=failing):
        await load.progress()
        for _ in range(fault_count(1, share=0.05)):
            await kill_and_start(broker, load, figures)
            await load.progress(60.0)


async def kill_and_start(broker: services.RabbitMQServer, load: JobLoad, figures: Figures) -> None:
    await asyncio.sleep(load.chance.uniform(0.1, 1.0))
    killed = load.clock()
    await asyncio.to_thread(broker.kill)
    figures.faults += 1
    await asyncio.to_thread(broker.start)
    load.broken.append((killed, load.clock()))
