"""Payloads, results and failures as text: checked, bounded, and never a surprise."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from enum import IntEnum
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from specstar.errors import DecodeError, InvalidInputError, LimitExceededError
from specstar.escaping import escaped
from specstar.message_queue.codec import (
    JobCodec,
    ResultError,
    decode_record,
    encode_record,
    envelope,
    failure_text,
)
from specstar.message_queue.job import INDEXED_FIELDS, JobRecord, JobStatus
from specstar.message_queue.retry import RetryPolicy, checked_seconds
from specstar.message_queue.state import indexed_data
from specstar.query import Projector
from specstar.resource_manager.nesting import MAX_LEVELS


def a_record(**more: Any) -> JobRecord:
    fields: dict[str, Any] = {
        "job_id": "id",
        "queue": "q",
        "payload": Raw(b'{"a":1}'),
        "created_time": datetime(2026, 1, 2, tzinfo=UTC),
        "revision_id": "r",
    }
    return JobRecord(**(fields | more))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(
    status=st.sampled_from(JobStatus),
    attempts=st.integers(0, 1000),
    error=st.none() | texts,
    partition_key=st.none() | texts,
    result=st.sampled_from([b"null", b"[1, 2]", b'"x"']),
)
def test_a_record_survives_its_encoding(
    status: JobStatus, attempts: int, error: str | None, partition_key: str | None, result: bytes
) -> None:
    before = a_record(status=status, attempts=attempts, error=error, partition_key=partition_key, result=Raw(result))
    after = decode_record(encode_record(before), job_id="id")
    plain = msgspec.structs.asdict(before) | {"payload": b'{"a":1}', "result": result}
    found = msgspec.structs.asdict(after)
    assert found | {"payload": bytes(after.payload), "result": bytes(after.result)} == plain


@given(st.binary(max_size=200))
def test_damaged_records_give_typed_errors(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_record(body, job_id="id")


def test_the_envelope_is_the_record_as_it_was_sent() -> None:
    run = a_record(status=JobStatus.running, attempts=3, worker="w", error="E", partition_key="p")
    assert decode_record(envelope(run), job_id="id") == decode_record(
        encode_record(a_record(partition_key="p")), job_id="id"
    )


def test_the_indexed_fields_are_what_the_projector_makes() -> None:
    for record in (a_record(), a_record(status=JobStatus.failed, attempts=2, partition_key="p", idempotency_key="i")):
        assert indexed_data(record) == Projector(JobRecord, INDEXED_FIELDS)(record)


def test_equal_payloads_have_equal_bytes() -> None:
    codec: JobCodec[Any] = JobCodec("q", dict, Any)
    assert bytes(codec.encode_payload({"b": 1, "a": 2})[0]) == bytes(codec.encode_payload({"a": 2, "b": 1})[0])


def test_an_encoded_payload_comes_with_a_copy_of_its_own() -> None:
    codec: JobCodec[Any] = JobCodec("q", dict, Any)
    payload = {"a": [1]}
    encoded, copy = codec.encode_payload(payload)
    payload["a"].append(2)
    assert bytes(encoded) == b'{"a":[1]}'
    assert copy == {"a": [1]}


def test_results_are_checked_and_bounded() -> None:
    codec: JobCodec[Any] = JobCodec("q", dict, int, max_payload_bytes=10)
    assert bytes(codec.encode_result(5)) == b"5"
    for wrong in ("text", object(), 10**11):
        with pytest.raises(ResultError):
            codec.encode_result(wrong)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_numbers_that_json_lacks_are_refused(number: float) -> None:
    codec: JobCodec[Any] = JobCodec("q", dict, Any)
    with pytest.raises(InvalidInputError, match="JSON has no"):
        codec.encode_payload({"a": [number]})
    with pytest.raises(ResultError, match="JSON has no"):
        codec.encode_result({"a": (number,)})
    assert bytes(codec.encode_payload({"a": None})[0]) == b'{"a":null}'


class _Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_failures_become_bounded_clean_text() -> None:
    def deep(left: int) -> None:
        if left:
            deep(left - 1)
        raise ValueError("x" * 100_000 + "\0\ud800")

    with pytest.raises(ValueError, match="x") as raised:
        deep(200)
    text, traceback = failure_text(raised.value)
    assert text.startswith("ValueError: xxx")
    assert len(text) <= 4096
    assert len(traceback) <= 16_384
    assert "\0" not in traceback
    (text + traceback).encode()
    assert failure_text(_Rude())[0] == "_Rude: (its message cannot be shown)"
    assert failure_text(KeyError())[0] == "KeyError"


def test_retries_back_off_to_a_limit() -> None:
    policy = RetryPolicy(max_retries=5, delay=2, backoff=3, max_delay=30)
    assert [policy.delay_after(attempt) for attempt in (1, 2, 3, 4, 5000)] == [2, 6, 18, 30, 30]
    assert RetryPolicy(max_retries=5, delay=0, backoff=3).delay_after(9) == 0
    assert RetryPolicy(max_retries=5, delay=7200).delay_after(1) == 7200
    assert policy.max_attempts == 6


@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, True, "5", None, 10**9, timedelta(-1), timedelta.max])
def test_seconds_are_checked(wrong: Any) -> None:
    with pytest.raises(InvalidInputError):
        checked_seconds(wrong, field="delay")


class _Colour(IntEnum):
    red = 1


class _Point(msgspec.Struct, frozen=True):
    x: int


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (dict[int, str], {2: "b", 1: "a"}),
        (dict[UUID, int], {UUID(int=2): 1, UUID(int=1): 2}),
        (dict[_Colour, int], {_Colour.red: 1}),
        (dict[date, int], {date(2026, 1, 2): 1}),
        (set[_Point], {_Point(2), _Point(1)}),
        (set[int | None], {None, 3, 1}),
        (dict[str, set[_Point]], {"b": {_Point(2), _Point(1)}, "a": set()}),
    ],
)
def test_payloads_with_keys_and_members_of_any_kind_are_kept(kind: Any, value: Any) -> None:
    codec: JobCodec[Any] = JobCodec("j", kind, Any)
    encoded, copy = codec.encode_payload(value)
    assert copy == value
    assert codec.same_payload(encoded, codec.encode_payload(copy)[0])
    if isinstance(value, dict):
        turned = codec.encode_payload(dict(reversed(value.items())))[0]
        assert codec.same_payload(encoded, turned)
    assert codec.encode_result(value) is not None


class _Price(msgspec.Struct):
    amount: float
    tags: set[_Point] = msgspec.field(default_factory=set)


@pytest.mark.parametrize(
    ("kind", "one", "other", "same"),
    [
        (_Price, b'{"amount":1}', b'{"amount":1.0}', True),
        (_Price, b'{"amount":1}', b'{"amount":1.0,"tags":[]}', True),
        (_Price, b'{"amount":1,"tags":[{"x":1},{"x":2}]}', b'{"tags":[{"x":2},{"x":1}],"amount":1.0}', True),
        (_Price, b'{"amount":1}', b'{"amount":1.5}', False),
        (Any, b"[1]", b"[1.0]", False),
        (Any, b"[1]", b"[true]", False),
        (list[int], b"[1,2]", b"[2,1]", False),
        (dict[str, list[int]], b'{"a":[1,2],"b":[]}', b'{"b":[],"a":[1,2]}', True),
        (int, b'"no number"', b'"no number"', True),
        (int, b'"no number"', b"1", False),
    ],
)
def test_payloads_are_the_same_as_their_type_takes_them(kind: Any, one: bytes, other: bytes, same: bool) -> None:
    codec: JobCodec[Any] = JobCodec("j", kind, Any)
    assert codec.same_payload(Raw(one), Raw(other)) is same
    assert codec.same_payload(Raw(other), Raw(one)) is same


def test_foreign_text_in_a_log_ends_no_line_and_steers_no_terminal() -> None:
    assert escaped("plain, ünïcode") == "plain, ünïcode"
    assert escaped("a\nb\x1b[31m\tc\u202e") == "a\\nb\\x1b[31m\\tc\\u202e"
    assert escaped("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


def test_payloads_and_results_have_a_limit_of_levels() -> None:
    codec: JobCodec[Any] = JobCodec("job", Any, Any)
    value: Any = 1
    for _ in range(MAX_LEVELS):
        value = [value]
    payload, copy = codec.encode_payload(value)
    assert copy == value == msgspec.json.decode(payload)
    assert codec.encode_result(value) == payload
    with pytest.raises(LimitExceededError, match="the payload of job 'job' is nested too deeply"):
        codec.encode_payload([value])
    with pytest.raises(ResultError, match="nested too deeply"):
        codec.encode_result([value])
    for _ in range(3000):
        value = [value]
    with pytest.raises(InvalidInputError, match="nested too deeply"):
        codec.encode_payload(value)
    with pytest.raises(ResultError, match="does not fit"):
        codec.encode_result(value)
