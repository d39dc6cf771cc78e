"""Which messages in a queue of work are dead letters on their way: those that were put aside, and no others."""

from __future__ import annotations

import time
from typing import Any

import pytest

from specstar.backends.rabbitmq import wire
from specstar.backends.rabbitmq.letter_headers import (
    REASON_HEADER,
    TIME_HEADER,
    aside,
    letter_in,
    letter_of,
    reason_headers,
)

_FRAME_HEAD = 7


def header_frame(headers: dict[str, Any] | None) -> bytes:
    """The payload of the frame, as a channel hands it over."""
    frame = wire.content(1, 7, b"", 0, 100, headers)[0]
    return frame[_FRAME_HEAD:-1]


@pytest.mark.parametrize("reason", ["it failed", "x-specstar-aside", "ä \0\n", "x" * 20_000])
def test_what_was_put_aside_is_known_by_its_headers_and_sent_on_with_those_it_had(reason: str) -> None:
    letter = reason_headers(reason)
    assert letter_in(header_frame(aside(letter))) == letter
    assert letter_of(aside(letter)) == letter
    # As dead letters are that somebody moves to the queue of work by hand: those are jobs again.
    assert letter_in(header_frame(letter)) is None
    assert letter_of(letter) is None


def test_a_message_without_headers_is_none() -> None:
    assert letter_in(header_frame(None)) is None
    assert letter_of(None) is None
    assert letter_of({}) is None


@pytest.mark.parametrize("odd", [{}, {REASON_HEADER: 7, TIME_HEADER: "yesterday"}, {TIME_HEADER: None}])
def test_odd_headers_do_no_harm(odd: dict[str, Any]) -> None:
    found = letter_in(header_frame(aside(odd)))
    assert found is not None
    assert found[REASON_HEADER] == ("7" if odd.get(REASON_HEADER) else "unknown")
    assert abs(found[TIME_HEADER] - time.time() * 1000) < 60_000


@pytest.mark.parametrize("damaged", [b"x-specstar-aside", header_frame(aside({}))[:12] + b"\xff\xffx-specstar-aside"])
def test_a_header_that_cannot_be_read_is_none_of_ours(damaged: bytes) -> None:
    assert letter_in(damaged) is None
