"""The page of limits says what the code does: every row of its tables, with its default and its range."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from specstar import QueryLimits, SpecStar, blob_source, blobs, declared_models
from specstar.backends.disk import DiskOptions, blob_reader, connection, payloads
from specstar.backends.disk import blob as disk_blob
from specstar.backends.postgres import PostgresOptions
from specstar.backends.postgres import batching as postgres_batching
from specstar.backends.postgres import eraser as postgres_eraser
from specstar.backends.postgres import writes as postgres_writes
from specstar.backends.rabbitmq import RabbitMQOptions, dead_letters, outbox, publisher
from specstar.backends.rabbitmq import names as queue_names
from specstar.backends.s3 import S3Options, keys, meta_sync, multipart
from specstar.backends.s3 import errors as s3_errors
from specstar.backends.simple import SimpleOptions
from specstar.backends.sqlite import database_file, lanes, opening, search_lane
from specstar.config import expansion, loading
from specstar.message_queue import codec as job_codec
from specstar.message_queue import cron, local_state, middleware, recovery, retry, sender
from specstar.message_queue.queue import JobQueue
from specstar.query import fields, indexes, ordering, regex
from specstar.query.limits import RANGES
from specstar.resource_manager import ids, nesting
from specstar.runtime import Batcher, batcher, late

PAGE = Path(__file__).resolve().parents[3] / "docs" / "limits.md"
HEAD = ["what", "default", "how to set it", "when it is crossed", "why"]
UNITS = {"GiB": 30, "MiB": 20, "KiB": 10}

Row = tuple[str, str]


def size(value: int) -> str:
    """A number of bytes, as the page writes it."""
    for unit, bits in UNITS.items():
        if value and value % (1 << bits) == 0:
            return f"{value >> bits:,} {unit}"
    return f"{value:,} bytes"


def count(value: float, unit: str = "") -> str:
    """A number, as the page writes it."""
    assert value == int(value)
    return f"{int(value):,} {unit}".rstrip()


def fixed(text: str) -> Row:
    return text, "fixed"


def field_of(owner: Any, name: str) -> tuple[Any, Any]:
    (field,) = (found for found in msgspec.structs.fields(owner) if found.name == name)
    info: Any = msgspec.inspect.type_info(field.type)
    return field, info.type if isinstance(info, msgspec.inspect.Metadata) else info


def option(owner: Any, name: str, unit: str = "") -> Row:
    """The default of an option and its name, with its range where it has both ends."""
    field, info = field_of(owner, name)
    written = size if unit == "bytes" else count
    default = size(field.default) if unit == "bytes" else count(field.default, unit)
    if info.ge is None or info.le is None:
        return default, f"`{name}`"
    least, most = written(info.ge), written(info.le)
    if unit == "bytes" and least.split()[1] == most.split()[1]:
        least = least.split()[0]
    return default, f"`{name}`, {least} to {most}"


def longest(owner: Any, name: str) -> Row:
    """The most characters of an option that is text."""
    _, info = field_of(owner, name)
    return fixed(count(info.max_length, "characters"))


def of_query(name: str) -> Row:
    least, most = RANGES[name]
    return count(getattr(QueryLimits(), name)), f"`QueryLimits({name}=...)`, {least:,} to {most:,}"


def default_of(function: Any, name: str) -> Any:
    return inspect.signature(function).parameters[name].default


def expected() -> dict[str, Row]:
    assert queue_names._LIMIT == 255
    assert longest(S3Options, "prefix") == longest(S3Options, "blob_prefix")
    assert option(SimpleOptions, "max_retries") == option(RabbitMQOptions, "max_retries")
    return {
        "payload of a resource, encoded": (
            size(default_of(SpecStar.add_model, "max_payload_bytes")),
            "`add_model(max_payload_bytes=...)`",
        ),
        "levels of lists and objects in a payload of a resource or job, and in a result": fixed(
            count(nesting.MAX_LEVELS)
        ),
        "headers of a job together, as JSON": fixed(size(middleware.MAX_HEADERS_BYTES)),
        "name of a header of a job": fixed(size(middleware.MAX_NAME_BYTES)),
        "payload of a job, and its result": (
            size(default_of(JobQueue.__init__, "max_payload_bytes")),
            "`max_payload_bytes` of the job",
        ),
        "message on `rabbitmq`": option(RabbitMQOptions, "max_message_bytes", "bytes"),
        "metadata of a model on `s3`": option(S3Options, "max_meta_bytes", "bytes"),
        "row with its payload on `disk`": fixed(
            count(apsw.Connection(":memory:").limit(apsw.SQLITE_LIMIT_LENGTH, -1), "bytes")
        ),
        "row with its payload on `postgres`": fixed(count(postgres_writes.LARGEST, "bytes")),
        "parts of a blob on `s3`": fixed(count(multipart._MAX_PARTS)),
        "chunk of a blob that is read": fixed(size(blob_reader._CHUNK)),
        "bytes of a transaction, and of payload files together, on `disk`": option(DiskOptions, "batch_bytes", "bytes"),
        "bytes of a statement of writes on `postgres`": option(PostgresOptions, "batch_bytes", "bytes"),
        "bytes of the rows of a push on `s3`": option(S3Options, "batch_bytes", "bytes"),
        "bytes of dead letters sent back together on `rabbitmq`": fixed(size(dead_letters._BATCH_BYTES)),
        "bytes sent and not confirmed on `rabbitmq`": fixed(size(publisher._MAX_BYTES_IN_FLIGHT)),
        "messages sent and not confirmed on `rabbitmq`": option(RabbitMQOptions, "max_unconfirmed"),
        "writes of a transaction on `disk`": fixed(count(lanes._MAX_WRITES)),
        "reads by id of one thread job on `disk`": fixed(count(lanes._MAX_READS)),
        "searches of one thread job on `disk`": fixed(count(search_lane._MAX_SEARCHES)),
        "payload files written or read together on `disk`": fixed(count(payloads._MAX_FILES)),
        "rows of a statement on `postgres`": fixed(count(postgres_batching.MAX_ROWS)),
        "resources erased by a statement on `postgres`": fixed(count(postgres_eraser.MAX_ROWS)),
        "calls of a push on `s3`": fixed(count(meta_sync._MAX_CHANGES)),
        "dead letters sent back together on `rabbitmq`": fixed(count(dead_letters._BATCH_MESSAGES)),
        "file": fixed(size(loading.MAX_FILE_BYTES)),
        "nesting": fixed(count(loading._MAX_DEPTH, "levels")),
        "characters of one string, expanded": fixed(count(expansion.MAX_EXPANDED_CHARACTERS)),
        "characters of all strings, expanded": fixed(count(loading._MAX_EXPANDED_TOTAL)),
        "levels of a condition": of_query("max_depth"),
        "conditions in one": of_query("max_conditions"),
        "values of one `in_`": of_query("max_in_values"),
        "values of all conditions": of_query("max_values"),
        "characters of one text": of_query("max_text_characters"),
        "characters of a regular expression": of_query("max_pattern_characters"),
        "steps that its repetitions multiply to": of_query("max_pattern_steps"),
        "levels of its groups": of_query("max_pattern_groups"),
        "count of one repetition in it": fixed(count(regex.MAX_REPEAT)),
        "what counts within each other multiply to": fixed(count(regex._MOST_NESTED)),
        "keys of a sort": of_query("max_sort_keys"),
        "characters of a cursor": of_query("max_cursor_characters"),
        "characters of a field's path": fixed(count(fields.MAX_PATH)),
        "characters of a text that its order looks at": fixed(count(ordering.KEY_LENGTH)),
        "resource id": fixed(count(ids.MAX_ID_BYTES, "bytes")),
        "user": fixed(count(ids.MAX_ID_BYTES, "bytes")),
        "model name": fixed(count(declared_models._MAX_NAME_LENGTH, "characters")),
        "job name": fixed(count(ids.MAX_ID_BYTES, "bytes")),
        "partition key, idempotency key": fixed(count(sender._MAX_KEY_BYTES, "bytes")),
        "content type of a blob": fixed(count(blobs._MAX_TYPE_LENGTH, "characters")),
        "name of a table or index on `postgres`": fixed(count(indexes.NAME_BYTES, "bytes")),
        "name of a queue on `rabbitmq`": fixed(count(queue_names._LIMIT, "bytes")),
        "characters of a model in a key on `s3`": fixed(count(keys._NAME_LIMIT)),
        "characters of an id in a key on `s3`": fixed(count(keys._ID_LIMIT)),
        "`table_prefix` of `postgres`": longest(PostgresOptions, "table_prefix"),
        "`schema` of `postgres`": longest(PostgresOptions, "schema"),
        "`queue_prefix` of `rabbitmq`": longest(RabbitMQOptions, "queue_prefix"),
        "`prefix`, `blob_prefix` of `s3`": longest(S3Options, "prefix"),
        "wait of a call until it is sent": fixed(count(default_of(Batcher.__init__, "max_wait"), "s")),
        "connections to `postgres`": option(PostgresOptions, "pool_max_size"),
        "connections to `postgres` kept when idle": option(PostgresOptions, "pool_min_size"),
        "wait for a connection of the pool of `postgres`": option(PostgresOptions, "acquire_timeout_seconds", "s"),
        "statement on `postgres`": option(PostgresOptions, "command_timeout_seconds", "s"),
        "batches of reads, or of writes, under way on `postgres`, for each model": fixed(
            f"{postgres_batching.MAX_IN_FLIGHT}, and {postgres_batching.MAX_WHEN_SLOW} while they take over "
            f"{batcher._SLOW_SECONDS * 1000:g} ms"
        ),
        "statements under way on `postgres` of one `create_many` or `get_many`": fixed(
            count(postgres_batching.MANY_AT_ONCE)
        ),
        "connections to `s3`": option(S3Options, "max_pool_connections"),
        "operation on `s3`, with its retries; from one piece of a large body to the next": option(
            S3Options, "operation_timeout_seconds", "s"
        ),
        "requests of one operation on `s3`": option(S3Options, "max_attempts"),
        "parts of one blob under way on `s3`": option(S3Options, "part_concurrency"),
        "searching threads of `disk`": option(DiskOptions, "reader_threads"),
        "write-ahead log of `disk`": fixed(size(database_file.WAL_PAGES * opening.PAGE_SIZE)),
        "threads for payload files of `disk`": fixed(count(connection._FILE_THREADS)),
        "threads for blobs of `disk`": fixed(count(connection._BLOB_THREADS)),
        f"blobs of `disk` of over {size(disk_blob._AT_ONCE)} read by `get` at once": fixed(
            count(connection._BLOB_STREAMS)
        ),
        "blobs of `disk` written in chunks at once, with their files open all the time": fixed(
            count(disk_blob._OPEN_WRITERS)
        ),
        "threads of a loop that read the files and iterables given to `put`": fixed(count(blob_source._THREADS)),
        "threads that read blobs of `disk` ahead": fixed(count(connection._AHEAD_THREADS)),
        "wait for another process on `disk`": option(DiskOptions, "busy_timeout_seconds", "s"),
        f"publish on `rabbitmq`; of `enqueue_many` each {size(outbox._TOGETHER_BYTES)}": (
            option(RabbitMQOptions, "publish_timeout_seconds", "s")[0],
            "`publish_timeout_seconds`, up to 3,600",
        ),
        "validity of a presigned URL": option(S3Options, "presigned_url_expiry", "s"),
        "messages of a queue of `simple`": (option(SimpleOptions, "max_depth")[0], "`max_depth`, from 1"),
        "jobs at once in a worker": (
            count(default_of(SpecStar.run_workers, "concurrency")),
            "`run_workers(concurrency=...)`",
        ),
        "retries": (
            option(SimpleOptions, "max_retries")[0],
            "`max_retries` of the job or the backend, 0 to 1,000",
        ),
        "wait before the first retry, `simple`": (
            option(SimpleOptions, "retry_delay_seconds", "s")[0],
            "`retry_delay`, `retry_delay_seconds`",
        ),
        "wait before the first retry, `rabbitmq`": (
            option(RabbitMQOptions, "retry_delay_seconds", "s")[0],
            "`retry_delay`, `retry_delay_seconds`",
        ),
        "wait before a retry that backs off": (
            count(default_of(JobQueue.__init__, "retry_max_delay"), "s"),
            "`retry_max_delay`",
        ),
        "delay of a job, and every other time it is given": fixed(count(retry.MAX_DELAY_SECONDS, "s")),
        "how long a delayed job that is due may find no room in its queue on `rabbitmq`": option(
            RabbitMQOptions, "delay_queue_expiry_seconds", "s"
        ),
        "delay on `rabbitmq`": fixed(count(queue_names.LONGEST_DELAY_SECONDS, "s")),
        "cron expression": fixed(count(cron.MAX_EXPRESSION_BYTES, "bytes")),
        "priority": fixed(count(sender.MAX_PRIORITY)),
        "characters of a job's error": fixed(count(job_codec.MAX_ERROR_CHARACTERS)),
        "characters of a job's traceback": fixed(count(job_codec.MAX_TRACEBACK_CHARACTERS)),
        # S3's own; what is that wrong is told for what it is a minute before.
        "difference of a host's clock and that of `s3`": fixed(count(s3_errors._LARGEST_SKEW_SECONDS + 60, "s")),
        "age of payloads and uploads that are garbage": (
            count(default_of(SpecStar.collect_garbage, "older_than_seconds"), "s"),
            "`collect_garbage(older_than_seconds=...)`",
        ),
        "the same for `spec.blobs.collect_garbage`": (
            count(default_of(blobs.BlobManager.collect_garbage, "older_than_seconds"), "s"),
            "`collect_garbage(older_than_seconds=...)`",
        ),
        "time of a writer between payload and row": fixed(count(late._LATE_SECONDS, "s")),
        "watching a job of another host on `simple`, whose mark is not renewed": fixed(
            count(recovery.LEASE_SECONDS, "s")
        ),
        "how far a worker's clock may be behind a sender's after a kill of the broker, with classic delay queues of "
        "`rabbitmq`": fixed(count(recovery._WRONG_BY_SECONDS, "s")),
        "states not written yet, of a process that keeps them itself": fixed(count(local_state._MAX_UNWRITTEN)),
    }


def rows() -> Iterator[list[str]]:
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("| ") and not line.startswith("| ---"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) == len(HEAD), line
            if cells != HEAD:
                yield cells


def test_every_row_of_the_page_is_what_the_code_does() -> None:
    found = {what: (default, how.partition(";")[0]) for what, default, how, _, _ in rows()}
    assert len(found) == len(list(rows()))
    assert found == expected()


@pytest.mark.parametrize("name", RANGES)
def test_the_docstring_of_the_limits_has_their_ranges(name: str) -> None:
    least, most = RANGES[name]
    (line,) = re.findall(rf"- `{name}`: .*", inspect.getdoc(QueryLimits) or "")
    assert line.endswith(f"({least:,} to {most:,})")


def test_every_error_that_the_page_names_exists() -> None:
    import specstar.errors

    named = set(re.findall(r"`(\w+Error|BackendUnavailable)`", PAGE.read_text(encoding="utf-8")))
    assert named <= set(specstar.errors.__all__)
