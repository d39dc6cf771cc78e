"""Queue names: any job name becomes text that is safe, readable and at most 255 bytes, without collisions."""

from __future__ import annotations

import hashlib
import math
import zlib

from specstar.errors import InvalidInputError, LimitExceededError

__all__ = ["LONGEST_DELAY_SECONDS", "QueueNames", "delay_steps", "longer_step", "shard_of", "step_of"]

_LIMIT = 255
# The longest suffix is that of a delay queue of a partition: ":part:255:delay:4290000000:x86400000:q".
_SUFFIX = 40
_SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
# A TTL, and the life of a queue, is at most 2**32 - 1 milliseconds (49 days): this leaves a day for the expiry.
_LONGEST_STEP = 4_200_000_000
LONGEST_DELAY_SECONDS = _LONGEST_STEP / 1000
_SHORTEST_STEP = 10


class QueueNames:
    """The names of all queues of one job.

    Bytes other than letters, digits, `_`, `-` and `.` become `@` and two hexadecimal digits (the driver allows no `%`),
    so that no job name can end like a suffix. A long name is cut, and ends in `#` and a part of its SHA-256.

    `work_type` and `delay_type` are the types of the queues of work and of those in which messages wait. Where they
    differ, the latter's name ends in its first letter: the type of a queue cannot change.
    """

    def __init__(self, prefix: str, job: str, *, work_type: str = "classic", delay_type: str = "classic") -> None:
        self.job = job
        self._mark = "" if delay_type == work_type else f":{delay_type[0]}"
        encoded = "".join(
            chr(byte) if byte in _SAFE else f"@{byte:02X}" for byte in job.encode("utf-8", "surrogatepass")
        )
        encoded = encoded or "@"
        if (prefix + encoded).startswith("amq."):
            encoded = encoded.replace(".", "@2E", 1)
        room = _LIMIT - _SUFFIX - len(prefix.encode("utf-8", "surrogatepass"))
        if len(encoded) > room:
            digest = hashlib.sha256(job.encode("utf-8", "surrogatepass")).hexdigest()[:32]
            encoded = f"{encoded[: room - 33]}#{digest}"
        self.main: str = prefix + encoded
        self.retry: str = f"{self.main}:retry{self._mark}"
        self.dead: str = f"{self.main}:dead"
        self.partitions: str = f"{self.main}:partitions"
        self.uptime: str = f"{self.main}:uptime"
        self.purging: str = f"{self.main}:purging"

    def shard(self, number: int) -> str:
        """The queue of one part of the partition keys."""
        return f"{self.main}:part:{number}"

    def delay(self, target: str, step: int, expiry: float, unnamed_expiry: float) -> str:
        """The queue in which messages for `target` wait for `step` milliseconds.

        Its expiry in seconds is part of the name, since a queue cannot change it, unless it is `unnamed_expiry`.
        """
        return f"{target}:delay:{self._waits(step, expiry, unnamed_expiry)}"

    def aside(self, step: int, expiry: float, unnamed_expiry: float) -> str:
        """The queue in which dead letters wait for `step` milliseconds; its expiry is told as in `delay`."""
        return f"{self.main}:aside:{self._waits(step, expiry, unnamed_expiry)}"

    def _waits(self, step: int, expiry: float, unnamed_expiry: float) -> str:
        kept = "" if expiry == unnamed_expiry else f":x{round(expiry * 1000)}"
        return f"{step}{kept}{self._mark}"


def shard_of(partition_key: str, shards: int) -> int:
    """The number of the queue that a partition key belongs to. Part of the stored format: never change it."""
    return zlib.crc32(partition_key.encode("utf-8", "surrogatepass")) % shards


def step_of(delay: float) -> int:
    """The delay in milliseconds, rounded up to two significant digits, so that there are few queues: up to 10 % late.

    Raises `InvalidInputError` for what is no length of time, `LimitExceededError` beyond 48 days.
    """
    if not (math.isfinite(delay) and delay >= 0):
        raise InvalidInputError(f"a delay must be a number of seconds from 0 on, not {delay!r}", field="delay")
    if delay > LONGEST_DELAY_SECONDS:
        raise LimitExceededError(
            f"a delay on RabbitMQ is at most {LONGEST_DELAY_SECONDS:,.0f} seconds, not {delay:,.0f}",
            field="delay",
            limit=int(LONGEST_DELAY_SECONDS),
            actual=int(delay),
        )
    # Rounded first: 0.29 * 1000 is a little more than 290.
    milliseconds = max(_SHORTEST_STEP, math.ceil(round(delay * 1000, 3)))
    unit = _unit(milliseconds)
    return -(-milliseconds // unit) * unit


def longer_step(step: int) -> int | None:
    """The next value that `step_of` can give; None after the longest."""
    longer = step + _unit(step)
    return longer if longer <= _LONGEST_STEP else None


def _unit(milliseconds: int) -> int:
    unit: int = 10 ** (len(str(milliseconds)) - 2)
    return unit


def delay_steps() -> list[int]:
    """Every value that `step_of` can give, ascending."""
    steps = [mantissa * 10**exponent for exponent in range(9) for mantissa in range(10, 100) if mantissa * 10**exponent]
    return [step for step in steps if step <= _LONGEST_STEP]
