"""Declaring queues on brokers that do not take every argument."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiormq.exceptions import ChannelPreconditionFailed

from specstar.backends.rabbitmq.faults import UnknownArgumentError
from specstar.backends.rabbitmq.job_queues import JobQueues, QueueSpec
from specstar.backends.rabbitmq.options import RabbitMQOptions
from specstar.backends.rabbitmq.topology import Topology
from specstar.errors import BackendError, BackendUnavailable


@pytest.fixture
def anyio_backend() -> str:
    """The driver is for asyncio alone."""
    return "asyncio"


class NewerBroker:
    """The link to a RabbitMQ 4.3 without consumer timeouts on classic queues, in its words."""

    def __init__(self) -> None:
        self.declared: dict[str, dict[str, Any]] = {}
        self.requests = 0
        self.is_closed = False
        self.settles = asyncio.Event()
        self.settles.set()
        self.asked_to_settle = asyncio.Event()

    async def open_channel(self, *, confirms: bool) -> NewerBroker:
        assert not confirms
        return self

    def discard(self, channel: object) -> None:
        assert channel is self

    def blocked(self) -> bool:
        return False

    async def queue_declare(self, name: str, *, durable: bool, arguments: dict[str, Any]) -> object:
        assert durable
        self.requests += 1
        if ":settling:" in name:
            self.asked_to_settle.set()
            await self.settles.wait()
        kind = arguments["x-queue-type"]
        if "x-consumer-timeout" in arguments and kind == "classic":
            raise ChannelPreconditionFailed(
                f"PRECONDITION_FAILED - invalid arg 'x-consumer-timeout' for queue '{name}' in vhost '/' of queue type "
                "rabbit_classic_queue"
            )
        if "x-unheard-of" in arguments:
            raise ChannelPreconditionFailed(
                f"PRECONDITION_FAILED - invalid arg 'x-unheard-of' for queue '{name}' in vhost '/' of queue type "
                "rabbit_classic_queue"
            )
        self.declared[name] = arguments
        return SimpleNamespace(message_count=0)

    async def queue_delete(self, name: str) -> None:
        self.declared.pop(name)


def _queues(queue_type: str) -> JobQueues:
    options = RabbitMQOptions(
        amqp_url="amqp://broker", queue_type=cast("Any", queue_type), consumer_timeout_seconds=7200
    )
    return JobQueues("mail", options, None)


async def test_a_classic_queue_does_without_the_timeout_that_its_broker_does_not_know(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = NewerBroker()
    topology = Topology(cast("Any", broker), 5.0)
    main = _queues("classic").main
    with caplog.at_level(logging.WARNING, "specstar"):
        await topology.ensure(main)
        await topology.declare(main)
        await topology.ensure(main)
    assert broker.declared == {main.name: main.without({"x-consumer-timeout"}).arguments}
    assert broker.requests == 3, "it is asked once"
    assert [record.message.endswith("consumer_timeout_seconds is left out") for record in caplog.records] == [True]


async def test_a_quorum_queue_keeps_it() -> None:
    broker = NewerBroker()
    topology = Topology(cast("Any", broker), 5.0)
    main = _queues("quorum").main
    await topology.ensure(main)
    assert broker.declared[main.name]["x-consumer-timeout"] == 7_200_000


def test_what_is_due_can_wait_a_day_for_room_in_its_queue() -> None:
    spec = _queues("classic").delay("mail", 2000)
    assert spec.arguments["x-expires"] == 86_402_000
    assert spec.renew_seconds == 300


def test_a_queue_of_another_expiry_has_another_name() -> None:
    """An earlier version, whose default it was, did not name 300."""
    names = {
        expiry: JobQueues("mail", RabbitMQOptions(amqp_url="amqp://broker", delay_queue_expiry_seconds=expiry), None)
        .delay("specstar:mail", 2000)
        .name
        for expiry in (300, 1000, 86_400)
    }
    assert names == {
        300: "specstar:mail:delay:2000:q",
        1000: "specstar:mail:delay:2000:x1000000:q",
        86_400: "specstar:mail:delay:2000:x86400000:q",
    }


async def test_no_other_argument_is_left_out() -> None:
    topology = Topology(cast("Any", NewerBroker()), 5.0)
    main = _queues("classic").main
    main.arguments["x-unheard-of"] = 1
    with pytest.raises(UnknownArgumentError, match="x-unheard-of") as caught:
        await topology.ensure(main)
    assert isinstance(caught.value, BackendError)


def _settling(broker: NewerBroker) -> int:
    return sum(":settling:" in name for name in broker.declared)


async def test_queues_that_are_declared_together_are_settled_together() -> None:
    broker = NewerBroker()
    topology = Topology(cast("Any", broker), 5.0)
    queues = _queues("quorum")
    specs = [queues.main, queues.retry, *(queues.shard(number) for number in range(16))]
    await topology.ensure(*specs)
    assert _settling(broker) == 1
    assert all(topology.fresh(spec) for spec in specs)
    await topology.ensure(*specs)
    assert await topology.declare(queues.main) == 0
    assert _settling(broker) == 1


async def test_what_many_need_at_once_is_declared_and_settled_once() -> None:
    broker = NewerBroker()
    topology = Topology(cast("Any", broker), 5.0)
    delay = _queues("quorum").delay("mail", 2000)
    await asyncio.gather(*(topology.ensure(delay) for _ in range(20)))
    assert topology.fresh(delay)
    assert _settling(broker) == 1
    # The queue that announces purges, this one, and the one that settles both.
    assert broker.requests == 3


async def test_a_queue_is_not_used_until_it_is_settled() -> None:
    """Whoever declared it may have been cancelled before."""
    broker = NewerBroker()
    topology = Topology(cast("Any", broker), 5.0)
    main = _queues("quorum").main
    broker.settles.clear()
    first = asyncio.create_task(topology.ensure(main))
    await broker.asked_to_settle.wait()
    assert main.name in broker.declared
    first.cancel()
    await asyncio.wait([first])
    assert not topology.fresh(main)
    broker.settles.set()
    await topology.ensure(main)
    assert topology.fresh(main)
    assert _settling(broker) == 1


async def test_classic_queues_are_not_settled() -> None:
    broker = NewerBroker()
    topology = Topology(cast("Any", broker), 5.0)
    queues = _queues("classic")
    await topology.ensure(queues.main, queues.dead, queues.partitions)
    assert _settling(broker) == 0


async def test_with_a_silent_broker_nobody_waits_for_the_limits_of_all_before_it() -> None:
    broker = NewerBroker()
    topology = Topology(cast("Any", broker), 0.05)
    main = _queues("classic").main
    await topology.declare(main)
    asked = broker.requests
    broker.settles.clear()  # it answers no more
    settling = QueueSpec(name=f"{main.name}:settling:1", arguments=main.arguments)
    calls = [asyncio.create_task(topology.declare(settling)) for _ in range(10)]
    ends = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(end, BackendUnavailable) for end in ends), ends
    assert broker.requests - asked <= 2, "one for those who came together, and one for who came a moment later"
    assert "those who asked before" in str(ends[-1])
    broker.settles.set()
    await topology.declare(settling)
