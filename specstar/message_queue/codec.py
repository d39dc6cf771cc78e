"""The values of one job type to JSON and back, checked both ways, within stated limits."""

from __future__ import annotations

import contextlib
import sys
import traceback as tracebacks
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw

from specstar.checks import checked_count
from specstar.config.encoding import Encoding
from specstar.errors import DecodeError, InvalidInputError, LimitExceededError
from specstar.message_queue.job import FORMAT, NO_RESULT, DeadJob, Job, JobRecord, R_co
from specstar.resource_manager.decodable import decodable_type
from specstar.resource_manager.finite import refuse_nonfinite
from specstar.resource_manager.nesting import TOO_DEEP, Nesting
from specstar.resource_manager.patching import Shape
from specstar.resource_manager.subclasses import Subclasses
from specstar.roles import DeadLetter

__all__ = [
    "DEFAULT_MAX_PAYLOAD_BYTES",
    "JobCodec",
    "ResultError",
    "decode_record",
    "encode_record",
    "envelope",
    "failure_text",
]

P = TypeVar("P")
DEFAULT_MAX_PAYLOAD_BYTES = 8 << 20
MAX_ERROR_CHARACTERS = 4_096
MAX_TRACEBACK_CHARACTERS = 16_384
_CALLERS = {
    "specstar.message_queue.invoke",
    "specstar.message_queue.handler_threads",
    "specstar.message_queue.middleware",
}


class _Head(msgspec.Struct):
    """What a record of any format has."""

    format: int = FORMAT


# Dictionaries and sets in one order, so that equal payloads have equal bytes, where their keys and members have one.
_ordered = msgspec.json.Encoder(order="deterministic")
_encoder = msgspec.json.Encoder()
_record_decoder = msgspec.json.Decoder(JobRecord)
_head_decoder = msgspec.json.Decoder(_Head)
_failures = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, TypeError)

encode_record: Callable[[JobRecord], bytes] = _encoder.encode


class ResultError(Exception):
    """A handler returned what cannot be kept."""


class JobCodec(Generic[P, R_co]):
    """Encodes and decodes the payloads and results of one job type."""

    def __init__(
        self, name: str, payload_type: Any, result_type: Any, *, max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES
    ) -> None:
        self.name = name
        self.payload_type = payload_type
        self.max_payload_bytes: int = checked_count(max_payload_bytes, "max_payload_bytes", 1, sys.maxsize)
        try:
            self._payload: msgspec.json.Decoder[P] = msgspec.json.Decoder(payload_type)
            kind = decodable_type(payload_type)
            self._shape = Shape(kind)
            self._subclasses = Subclasses(kind)
            self._nesting = Nesting(kind, what=f"the payload of job {name!r}", field="payload")
        except (TypeError, NameError, ValueError) as error:
            raise InvalidInputError(
                f"the payload of job {name!r} cannot be decoded: {error}", field="payload_type"
            ) from error
        try:
            self._result: msgspec.json.Decoder[R_co] = msgspec.json.Decoder(result_type)
            self._nesting_of_result = Nesting(decodable_type(result_type), what="it", field="result")
        except (TypeError, NameError, ValueError) as error:
            raise InvalidInputError(
                f"the result of job {name!r} cannot be decoded: {error}", field="result_type"
            ) from error

    def encode_payload(self, value: P) -> tuple[Raw, P]:
        """The payload as JSON, and decoded again, so that nothing is sent that a worker could not read.

        Raises `InvalidInputError` with the path of what does not fit, `LimitExceededError` if it is too large.
        """
        try:
            if isinstance(value, dict | list):
                self._shape.check(value)
            else:
                self._subclasses.check(value)
            payload = _json_of(value)
            copy = self._payload.decode(payload)
            refuse_nonfinite(payload, value)
            self._nesting.check(payload, Encoding.json, value)
        except LimitExceededError:
            raise
        except RecursionError as error:
            raise InvalidInputError(f"this is no payload of job {self.name!r}: {TOO_DEEP}", field="payload") from error
        except (msgspec.EncodeError, *_failures, OverflowError) as error:
            raise InvalidInputError(f"this is no payload of job {self.name!r}: {error}", field="payload") from error
        if len(payload) > self.max_payload_bytes:
            message = f"the payload of job {self.name!r} has {len(payload)} bytes; at most {self.max_payload_bytes} are allowed"
            raise LimitExceededError(message, field="payload", limit=self.max_payload_bytes, actual=len(payload))
        return Raw(payload), copy

    def decode_payload(self, record: JobRecord) -> P:
        """The payload of a job. Raises `DecodeError` if it does not fit the type."""
        try:
            return self._payload.decode(record.payload)
        except _failures as error:
            message = f"the payload of job {record.job_id} in {self.name!r} does not decode: {error}"
            raise DecodeError(message, job_id=record.job_id, model=self.name) from error

    def same_payload(self, one: Raw, other: Raw) -> bool:
        """Whether two payloads say the same. Python's 1, 1.0 and True are the same only where the type makes them so."""
        if _ordered.encode(msgspec.json.decode(one)) == _ordered.encode(msgspec.json.decode(other)):
            return True
        try:
            first, second = self._payload.decode(one), self._payload.decode(other)
            return first == second and _unordered(first) == _unordered(second)
        except (msgspec.EncodeError, *_failures):
            return False

    def encode_result(self, value: Any) -> Raw:
        """What a handler returned, as JSON. Raises `ResultError` if it cannot be kept."""
        if value is None:
            return NO_RESULT
        try:
            result = msgspec.json.encode(value)
            self._result.decode(result)
            refuse_nonfinite(result, value)
            self._nesting_of_result.check(result, Encoding.json, value)
        except (msgspec.EncodeError, *_failures, OverflowError) as error:
            raise ResultError(f"the handler's result does not fit its type: {error}") from error
        if len(result) > self.max_payload_bytes:
            raise ResultError(
                f"the handler's result has {len(result)} bytes; at most {self.max_payload_bytes} are allowed"
            )
        return Raw(result)

    def job(self, record: JobRecord) -> Job[P, R_co]:
        """The public form of a record. Raises `DecodeError`."""
        return self.job_with(record, self.decode_payload(record))

    def job_with(self, record: JobRecord, payload: P, *, strict: bool = True) -> Job[P, R_co]:
        """The same, with its payload decoded already. Raises `DecodeError`; unless `strict`, an unfit result is None."""
        result: Any = None
        if record.result is not NO_RESULT:
            try:
                result = self._result.decode(record.result)
            except _failures as error:
                if not strict:
                    return self.job_with(msgspec.structs.replace(record, result=NO_RESULT), payload)
                message = f"the result of job {record.job_id} in {self.name!r} does not decode: {error}"
                raise DecodeError(message, job_id=record.job_id, model=self.name) from error
        return Job(
            job_id=record.job_id,
            queue=record.queue,
            payload=payload,
            status=record.status,
            attempts=record.attempts,
            result=result,
            error=record.error,
            traceback=record.traceback,
            created_time=record.created_time,
            scheduled_time=record.scheduled_time,
            started_time=record.started_time,
            finished_time=record.finished_time,
            partition_key=record.partition_key,
            idempotency_key=record.idempotency_key,
            priority=record.priority,
            headers=record.headers or {},
        )

    def dead_job(self, letter: DeadLetter) -> DeadJob[P]:
        """The public form of a dead letter; a payload that does not decode is None."""
        message = letter.message
        payload: P | None = None
        headers: dict[str, str] = {}
        with contextlib.suppress(DecodeError):
            record = decode_record(message.body, job_id=message.id)
            headers = record.headers or {}
            payload = self.decode_payload(record)
        return DeadJob(
            job_id=message.id,
            queue=self.name,
            payload=payload,
            attempts=message.attempts,
            reason=letter.reason,
            dead_time=letter.time,
            headers=headers,
        )


def _json_of(value: Any) -> bytes:
    try:
        return _ordered.encode(value)
    except TypeError:
        return _encoder.encode(value)


def _unordered(value: Any) -> bytes:
    """JSON with all that it lists in one order: for values that are equal, with sets whose members have none."""

    def arranged(part: Any) -> bytes:
        if isinstance(part, dict):
            return b"{" + b",".join(sorted(_encoder.encode(key) + arranged(item) for key, item in part.items())) + b"}"
        if isinstance(part, list):
            return b"[" + b",".join(sorted(map(arranged, part))) + b"]"
        return _encoder.encode(part)

    return arranged(msgspec.json.decode(_encoder.encode(value)))


def decode_record(body: bytes, *, job_id: str) -> JobRecord:
    """The record in a message or a stored payload. Raises `DecodeError`."""
    try:
        record = _record_decoder.decode(body)
    except _failures as error:
        raise DecodeError(_newer(body, job_id) or f"job {job_id!r} does not decode: {error}", job_id=job_id) from error
    if record.format > FORMAT:
        raise DecodeError(_newer(body, job_id), job_id=job_id)
    return record


def _newer(body: bytes, job_id: str) -> str:
    """What to say of a record of a later format, which may lack or change what this one has; nothing of others."""
    try:
        found = _head_decoder.decode(body).format
    except _failures:
        return ""
    if found <= FORMAT:
        return ""
    return f"job {job_id!r} has format {found}, this version reads up to {FORMAT}: upgrade the workers first"


def failure_text(error: BaseException) -> tuple[str, str]:
    """An exception as text and the end of its traceback, both cut to their limits."""
    try:
        said = str(error)
    except Exception:
        said = "(its message cannot be shown)"
    name = type(error).__qualname__
    text = _clean(f"{name}: {said}" if said else name)
    if len(text) > MAX_ERROR_CHARACTERS:
        text = text[: MAX_ERROR_CHARACTERS - 4] + " ..."
    try:
        lines = "".join(tracebacks.format_exception(type(error), error, _from_handler(error), limit=-20))
    except Exception:
        lines = text
    return text, _clean(lines)[-MAX_TRACEBACK_CHARACTERS:]


def _from_handler(error: BaseException) -> TracebackType | None:
    """The traceback from the handler on, without the frames that called it; all of it, if there are no others."""
    found = frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_globals.get("__name__") in _CALLERS:
            found = frame.tb_next
        frame = frame.tb_next
    return found or error.__traceback__


def _clean(text: str) -> str:
    # Stores refuse NUL and lone surrogates; a handler's message may hold both.
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def envelope(record: JobRecord) -> bytes:
    """The body of a message: the record as it was when the job was enqueued."""
    return encode_record(
        JobRecord(
            job_id=record.job_id,
            queue=record.queue,
            payload=record.payload,
            created_time=record.created_time,
            revision_id=record.revision_id,
            priority=record.priority,
            partition_key=record.partition_key,
            idempotency_key=record.idempotency_key,
            scheduled_time=record.scheduled_time,
            headers=record.headers,
        )
    )
