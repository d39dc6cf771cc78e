"""What went wrong, in our words: driver errors translated, and the two states that only this room handles."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import aiormq
from aiormq.exceptions import (
    AuthenticationError,
    ChannelAccessRefused,
    ChannelClosed,
    ChannelPreconditionFailed,
    ConnectionClosed,
    ConnectionInternalError,
    ConnectionNotAllowed,
    InvalidFrameError,
    ProbableAuthenticationError,
)

from specstar.backends.tls import tls_reason
from specstar.errors import BackendError, BackendUnavailable, ConfigError, LimitExceededError

if TYPE_CHECKING:
    import ssl

__all__ = [
    "BLOCKED",
    "PURGED",
    "CertificateFilesError",
    "LinkLostError",
    "NotTakenError",
    "QueueMismatchError",
    "ReturnedError",
    "UnknownArgumentError",
    "UnmadeQueueError",
    "publish_error",
    "refused",
    "translated",
    "unavailable",
    "unmade",
    "why_lost",
]

BLOCKED = "the broker blocks publishers (memory or disk alarm)"
PURGED = "a purge of its job goes on"
_INEQUIVALENT = re.compile(
    r"inequivalent arg '(?P<argument>[^']+)' for queue '(?P<queue>.*)' in vhost '(?P<vhost>.*)': "
    r"received (?P<received>.*?) but current is (?P<current>.*)$",
    re.DOTALL,
)
_UNKNOWN = re.compile(r"invalid arg '(?P<argument>[^']+)' for queue '.*' in vhost '.*' of queue type", re.DOTALL)
_TOO_LARGE = re.compile(r"message size \d+ is larger than (?:configured )?max size (?P<limit>\d+)")
# Of a classic queue in a cluster, with the code of what does not exist.
_NODE_DOWN = "is down or inaccessible"
_VALUE = re.compile(r"(?:the value )?'?(?P<value>.*?)'?(?: of type '[^']*')?$", re.DOTALL)
_OPTION = {
    "x-max-priority": "max_priority",
    "x-queue-type": "queue_type",
    # The broker names the first difference only: these are there with one queue type and not with the other.
    "x-dead-letter-exchange": "queue_type",
    "x-dead-letter-routing-key": "queue_type",
    "x-dead-letter-strategy": "queue_type",
    "x-overflow": "queue_type",
    "x-queue-mode": "queue_type",
    "x-message-ttl": "retry_delay_seconds",
    "x-delivery-limit": "quorum_delivery_limit",
    "x-max-length": "partition_shards",
    "x-expires": "delay_queue_expiry_seconds",
}


class LinkLostError(Exception):
    """The connection or channel went away before an answer came. Never reaches a user."""


class ReturnedError(Exception):
    """The broker handed a message back: no such queue. Never reaches a user."""


class NotTakenError(BackendUnavailable):
    """The broker did not take a message: its queue is full, has no leader, or was deleted just then."""

    def __init__(self, queue: str) -> None:
        super().__init__(
            f"the broker refused a message for {queue!r} (the queue is full, or lost its leader: its log says which)",
            role="mq",
            backend="rabbitmq",
        )


class CertificateFilesError(Exception):
    """The files of certificates that the URL names cannot be used; the cause says why. Never reaches a user."""


class QueueMismatchError(BackendError):
    """A queue exists with other arguments. `queue` and `argument` say which; nothing was changed."""

    def __init__(self, message: str, *, queue: str, argument: str) -> None:
        self.queue = queue
        self.argument = argument
        super().__init__(message, role="mq", backend="rabbitmq")


class UnknownArgumentError(BackendError):
    """This broker does not take `argument` for this type of queue; nothing was declared."""

    def __init__(self, message: str, *, argument: str) -> None:
        self.argument = argument
        super().__init__(message, role="mq", backend="rabbitmq")


class UnmadeQueueError(BackendUnavailable):
    """The broker cannot make `queue`, and closes the connection of whoever declares it."""

    def __init__(self, message: str, *, queue: str) -> None:
        self.queue = queue
        super().__init__(message, role="mq", backend="rabbitmq")


def unavailable(message: str) -> BackendUnavailable:
    return BackendUnavailable(message, role="mq", backend="rabbitmq")


def refused(message: str) -> BackendError:
    return BackendError(message, role="mq", backend="rabbitmq")


def connect_error(
    error: BaseException, place: str, timeout: float, *, tls: bool = False, foreign: bool = False
) -> BackendError:
    """The error of a connection that could not be made. `foreign`: what answered speaks another protocol."""
    if foreign:
        return refused(
            f"{place} does not speak AMQP 0-9-1, or not in this way: check host, port and scheme (amqps:// is with TLS) in "
            "amqp_url"
        )
    if isinstance(error, TimeoutError):
        return unavailable(f"no connection to {place} within {timeout:g} s")
    if isinstance(error, ProbableAuthenticationError | AuthenticationError):
        return refused(f"{place} refused the login: check user and password in amqp_url ({_text(error)})")
    if isinstance(error, ConnectionNotAllowed | ConnectionClosed) or (
        isinstance(error, InvalidFrameError) and "Connection.Close" in str(error)
    ):
        # The driver drops the broker's reason here. It may pass: a vhost is down for a moment while its node starts.
        return unavailable(
            f"{place} refused the vhost: it does not exist or is not up, the user may not use it, or a limit of "
            f"connections is reached; the broker's log says which"
        )
    import ssl

    if isinstance(cause := error.__cause__ or error, ssl.SSLError):
        return refused(f"no TLS with {place}: {_tls_failure(cause)}")
    # Not the number of a system error, which stands before its text.
    text = "; ".join(part for part in error.args if isinstance(part, str)) or _text(error)
    return unavailable(f"cannot connect to {place}: {text}; {_CUT_OFF[tls] if _is_cut_off(cause) else _NOT_THERE}")


_NOT_THERE = "is the broker running?"
# A broker that refuses a certificate may hang up before its reason has been read.
_CUT_OFF = {
    False: "is the broker up, and is its port one without TLS (amqps:// is with)?",
    True: "is the broker up, and does it know the client's certificate (certfile and keyfile in amqp_url)?",
}


def _is_cut_off(error: BaseException) -> bool:
    return isinstance(error, asyncio.IncompleteReadError | ConnectionResetError | BrokenPipeError)


def _tls_failure(error: ssl.SSLError) -> str:
    """The reason, and what to check."""
    reason = tls_reason(error)
    if "ALERT" in reason and ("CERT" in reason or "UNKNOWN_CA" in reason):
        return f"{reason}; the broker wants a certificate that it knows: check certfile and keyfile in amqp_url"
    return f"{reason}; check scheme, port and cafile in amqp_url"


def certificate_files_error(error: CertificateFilesError, unreadable: str | None) -> ConfigError:
    """`unreadable`: the parameter that names a file which is not there, or may not be read."""
    if unreadable is not None:
        return ConfigError(f"the file that {unreadable} of amqp_url names cannot be read")
    return ConfigError(
        f"the files that cafile, certfile and keyfile of amqp_url name cannot be used ({error}): write certificates "
        "in PEM, and the key of the one in certfile without a passphrase"
    )


def mismatch(text: str) -> QueueMismatchError | None:
    """What the broker says of a queue that exists with other arguments, or None if it says something else."""
    found = _INEQUIVALENT.search(text)
    if found is None:
        return None
    argument, queue = found["argument"], found["queue"]
    option = _OPTION.get(argument)
    named = f"{argument} (option {option})" if option else argument
    return QueueMismatchError(
        f"queue {queue!r} in vhost {found['vhost']!r} exists with another {named}: here {_value(found['received'])}, "
        f"there {_value(found['current'])}. Set the option to the value there, or let workers empty the queue, "
        f"then delete it: rabbitmqctl --vhost '{found['vhost']}' delete_queue '{queue}'",
        queue=queue,
        argument=argument,
    )


def unmade(reason: BaseException | None, queue: str) -> UnmadeQueueError | None:
    """What it means that the connection closed while this queue was declared; None if that had another reason.

    RabbitMQ 3.10 leaves such a name behind when a quorum queue is deleted in the moment in which it is declared for the first
    time: a process of the queue lives on, and stands in the way of the next.
    """
    if not isinstance(reason, ConnectionInternalError):
        return None
    text = _text(reason)
    if "Cannot declare" not in text or f"'{queue}'" not in text:
        return None
    return UnmadeQueueError(f"RabbitMQ cannot make queue {queue!r} until its node is restarted: {text}", queue=queue)


def channel_error(error: BaseException, doing: str) -> Exception:
    """The error of a request on a channel, from the driver's or the system's."""
    if isinstance(error, ChannelPreconditionFailed):
        text = _text(error)
        message = f"{doing}: {text}{_hint(text)}"
        unknown = _UNKNOWN.search(text)
        if unknown is not None:
            return UnknownArgumentError(message, argument=unknown["argument"])
        return mismatch(text) or refused(message)
    if isinstance(error, ChannelAccessRefused):
        return refused(
            f"{doing}: the user lacks a permission; specstar needs configure, write and read on queues that begin with "
            f"queue_prefix, and write on amq.default ({_text(error)})"
        )
    if isinstance(error, ChannelClosed) and _NODE_DOWN in _text(error):
        return unavailable(
            f"{doing}: {_text(error)}; it is back with its node, and with queue_type 'quorum' it would not go"
        )
    if isinstance(error, ChannelClosed) and error.args[:1] != (None,):
        return refused(f"{doing}: {_text(error)}")
    return LinkLostError(f"{doing}: {_text(error)}")


def publish_error(reason: BaseException | None, queue: str, size: int) -> Exception:
    """What the close of its channel means for a message of `size` bytes without a confirm: its own fault, or a lost link."""
    own: Exception = LinkLostError(f"the channel closed: {why_lost(reason)}")
    if isinstance(reason, ChannelAccessRefused):
        own = refused(f"publishing to {queue!r}: the user lacks the write permission on amq.default ({_text(reason)})")
    elif isinstance(reason, ChannelPreconditionFailed) and (found := _TOO_LARGE.search(_text(reason))) is not None:
        limit = int(found["limit"])
        if size > limit:
            own = LimitExceededError(
                f"a message of {size} bytes for {queue!r}; the broker's max_message_size allows {limit}",
                field="body",
                limit=limit,
                actual=size,
            )
    own.__cause__ = reason
    return own


@contextmanager
def translated(doing: str, blocked: Callable[[], bool] | None = None) -> Iterator[None]:
    """Translate what a request on a channel raises, also `TimeoutError` (to `BackendUnavailable`).

    `blocked` tells whether the broker refuses to read from this connection.
    """
    try:
        yield
    except TimeoutError as error:
        why = BLOCKED if blocked is not None and blocked() else "the broker did not answer in time"
        raise unavailable(f"{doing}: {why}") from error
    except (aiormq.AMQPError, OSError, RuntimeError) as error:
        raise channel_error(error, doing) from error
    except asyncio.CancelledError as error:
        # The driver rejects what is pending with CancelledError when it closes a stuck connection: nobody cancelled us.
        task = asyncio.current_task()
        if task is not None and not task.cancelling():
            raise LinkLostError(f"{doing}: the connection was closed") from error
        raise


def why_lost(reason: BaseException | None) -> str:
    """Why a connection or a channel closed. The driver has no words for a broker that has fallen silent."""
    return ("" if reason is None else str(reason)) or "the broker gave no sign of life"


def _text(error: BaseException) -> str:
    return "; ".join(str(part) for part in error.args if part is not None) or type(error).__name__


def _hint(text: str) -> str:
    if "invalid arg 'x-message-ttl'" in text and "quorum" in text:
        return "; RabbitMQ before 3.10 has no waiting in quorum queues: set delay_queue_type to 'classic'"
    return ""


def _value(text: str) -> str:
    found = _VALUE.match(text)
    return (found["value"] if found is not None else text) or "''"
