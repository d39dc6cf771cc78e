"""The headers of dead letters: why and when, and that one has not got there yet."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from specstar.backends.rabbitmq import wire

__all__ = ["REASON_HEADER", "TIME_HEADER", "aside", "letter_in", "letter_of", "reason_headers"]

# Why, and when in milliseconds since 1970.
REASON_HEADER = "x-specstar-reason"
TIME_HEADER = "x-specstar-time"
# On one that waits aside, and comes to a queue of work only to be sent on: moved there by hand, dead letters have none.
_ASIDE_HEADER = "x-specstar-aside"
_ASIDE_BYTES = _ASIDE_HEADER.encode()
_LONGEST_REASON = 8000


def reason_headers(reason: str) -> dict[str, Any]:
    """The headers of a dead letter of now; a long reason is cut."""
    text = reason.encode("utf-8", "replace").decode()
    if len(text) > _LONGEST_REASON:
        text = f"{text[:_LONGEST_REASON]}... ({len(text)} characters)"
    return {REASON_HEADER: text, TIME_HEADER: _now()}


def aside(letter: Mapping[str, Any]) -> dict[str, Any]:
    """The headers of a dead letter while it waits aside."""
    return {**letter, _ASIDE_HEADER: True}


def letter_in(header: bytes) -> dict[str, Any] | None:
    """What `letter_of` says of the headers in a content header frame: nothing, at nearly no cost, of ordinary messages."""
    return letter_of(wire.headers_in(header)) if _ASIDE_BYTES in header else None


def letter_of(headers: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The headers of the dead letter that has waited aside, if these are the headers of one."""
    if not headers or _ASIDE_HEADER not in headers:
        return None
    time = headers.get(TIME_HEADER)
    return {
        REASON_HEADER: str(headers.get(REASON_HEADER, "unknown")),
        TIME_HEADER: time if isinstance(time, int) else _now(),
    }


def _now() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)
