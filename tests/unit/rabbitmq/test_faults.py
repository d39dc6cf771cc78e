"""Errors in our words."""

from __future__ import annotations

import asyncio

import pytest
from aiormq.exceptions import (
    AMQPConnectionError,
    ChannelAccessRefused,
    ChannelClosed,
    ChannelInvalidStateError,
    ChannelPreconditionFailed,
    ConnectionClosed,
    ProbableAuthenticationError,
)

from specstar.backends.rabbitmq.faults import (
    LinkLostError,
    QueueMismatchError,
    channel_error,
    connect_error,
    mismatch,
    publish_error,
    translated,
    why_lost,
)
from specstar.errors import BackendError, BackendUnavailable

TEXTS = [
    (
        (
            "PRECONDITION_FAILED - inequivalent arg 'x-max-priority' for queue 'specstar:job' in vhost '/': "
            "received none but current is the value '5' of type 'signedint'"
        ),
        ("specstar:job", "x-max-priority"),
        ["option max_priority", "here none, there 5", "rabbitmqctl --vhost '/' delete_queue 'specstar:job'"],
    ),
    (
        (
            "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'it's' in vhost 'shop': "
            "received 'true' but current is 'false'"
        ),
        ("it's", "durable"),
        ["another durable: here true, there false", "vhost 'shop'"],
    ),
    (
        (
            "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'specstar:job:partitions' in vhost '/': "
            "received the value '5' of type 'signedint' but current is the value '4' of type 'signedint'"
        ),
        ("specstar:job:partitions", "x-max-length"),
        ["option partition_shards", "here 5, there 4"],
    ),
]


@pytest.mark.parametrize(("text", "where", "parts"), TEXTS)
def test_a_queue_with_other_arguments_is_explained(text: str, where: tuple[str, str], parts: list[str]) -> None:
    error = mismatch(text)
    assert error is not None
    assert (error.queue, error.argument) == where
    for part in parts:
        assert part in str(error)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ChannelPreconditionFailed(TEXTS[0][0]), QueueMismatchError),
        (ChannelPreconditionFailed("PRECONDITION_FAILED - unknown delivery tag 1"), BackendError),
        (ChannelAccessRefused("ACCESS_REFUSED - access to queue"), BackendError),
        (ChannelClosed(504, "CHANNEL_ERROR"), BackendError),
        (ChannelClosed(None, None), LinkLostError),
        (ChannelInvalidStateError("closed"), LinkLostError),
        (ConnectionClosed(320, "CONNECTION_FORCED"), LinkLostError),
        (ConnectionResetError(), LinkLostError),
    ],
)
def test_errors_of_a_channel(error: Exception, kind: type[Exception]) -> None:
    assert type(channel_error(error, "declaring")) is kind


def test_a_broker_without_waiting_in_quorum_queues_is_explained() -> None:
    text = (
        "PRECONDITION_FAILED - invalid arg 'x-message-ttl' for queue 'specstar:job:retry:q' in vhost '/' of queue type "
        "rabbit_quorum_queue"
    )
    assert "set delay_queue_type to 'classic'" in str(channel_error(ChannelPreconditionFailed(text), "declaring"))
    other = ChannelPreconditionFailed("PRECONDITION_FAILED - unknown delivery tag 1")
    assert "delay_queue_type" not in str(channel_error(other, "acking"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), BackendUnavailable),
        (AMQPConnectionError(111, "refused"), BackendUnavailable),
        (ConnectionClosed(320, "CONNECTION_FORCED"), BackendUnavailable),
        (ProbableAuthenticationError("ACCESS_REFUSED"), BackendError),
    ],
)
def test_errors_of_connecting(error: Exception, kind: type[Exception]) -> None:
    assert type(connect_error(error, "broker:5672", 3)) is kind


@pytest.mark.parametrize("cause", [ConnectionResetError(104, "reset"), asyncio.IncompleteReadError(b"", 1)])
def test_a_broker_that_hangs_up_may_want_tls_or_another_certificate(cause: Exception) -> None:
    error = AMQPConnectionError("Server connection reset")
    error.__cause__ = cause
    assert "amqps://" in str(connect_error(error, "broker:5672", 3))
    assert "certfile and keyfile" in str(connect_error(error, "broker:5671", 3, tls=True))
    refused = AMQPConnectionError("refused")
    refused.__cause__ = ConnectionRefusedError(111, "refused")
    assert str(connect_error(refused, "broker:5671", 3, tls=True)).endswith("refused; is the broker running?")


def test_a_cancellation_by_the_driver_is_a_lost_connection_and_ours_stays_one() -> None:
    async def by_driver() -> None:
        with pytest.raises(LinkLostError), translated("asking"):
            raise asyncio.CancelledError

    async def ours() -> None:
        with translated("asking"):
            await asyncio.sleep(10)

    async def main() -> None:
        await by_driver()
        task = asyncio.create_task(ours())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


@pytest.mark.parametrize("reason", [None, ConnectionError(), asyncio.CancelledError()])
def test_a_broker_that_falls_silent_is_told_as_that(reason: BaseException | None) -> None:
    """The driver closes its connection without a word."""
    assert why_lost(reason) == "the broker gave no sign of life"
    assert why_lost(ConnectionResetError("reset by peer")) == "reset by peer"
    assert "no sign of life" in str(publish_error(reason, "q", 1))
