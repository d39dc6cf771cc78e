"""Coverage-guided fuzzing of what reads foreign bytes: `python -m tests.faults.tools.fuzzer TARGET RUNS SEED CORPUS`.

A target takes bytes and ends with a typed error or a value that survives another round; anything else ends the process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["specstar"]):
    from specstar.backends.rabbitmq.envelope import pack, unpack
    from specstar.backends.sqlite.rows import decode_meta, decode_revision
    from specstar.config.resolving import resolve_config
    from specstar.errors import ConfigError, DecodeError, QueryError
    from specstar.message_queue.codec import decode_record
    from specstar.query import (
        POSTGRES,
        SQLITE,
        IndexedField,
        build_query,
        compile_query,
        decode_condition,
        decode_query,
        matches,
    )

__all__ = ["TARGETS"]

_FIELDS = [IndexedField(name) for name in ("name", "age", "tags", "address.city")]
_ENVIRON = {"A": "a", "HOST": "localhost", "EMPTY": ""}
_LONGEST = 4096


def config(data: bytes) -> None:
    """Any JSON is a configuration or a `ConfigError`."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return
    try:
        resolve_config(tree if isinstance(tree, dict) else {"meta": tree}, environ=_ENVIRON)
    except ConfigError as error:
        str(error)


def config_file(data: bytes) -> None:
    """Any file is a configuration or a `ConfigError`."""
    path = Path(sys.argv[4]) / "config.json"
    path.write_bytes(data)
    try:
        resolve_config(path, environ=_ENVIRON)
    except ConfigError as error:
        str(error)


def query(data: bytes) -> None:
    """Any tree is a query, whose values never become SQL, or a `QueryError`."""
    try:
        compiled = [
            compile_query(built, _FIELDS, dialect)
            for built in (decode_query(data), build_query(decode_condition(data), fields=_FIELDS))
            for dialect in (SQLITE, POSTGRES)
        ]
    except QueryError as error:
        str(error)
        return
    for one in compiled:
        texts = [value for value in one.params if isinstance(value, str) and len(value) > 12]
        if any(text in one.where for text in texts):
            raise AssertionError(f"a value is in the SQL: {one}")


def condition(data: bytes) -> None:
    """Any tree is a condition that can be evaluated, or a `QueryError`."""
    try:
        built = build_query(decode_condition(data), fields=_FIELDS)
        if built.condition is not None:
            matches(built.condition, {"name": "n", "age": 3, "tags": ["a"]}, {})
    except QueryError as error:
        str(error)


def record(data: bytes) -> None:
    """Any body of a job is a record or a `DecodeError`."""
    try:
        decode_record(data, job_id="job")
    except DecodeError as error:
        str(error)


def message(data: bytes) -> None:
    """Any message is one that survives another round, or a `DecodeError`."""
    try:
        found = unpack(data)
    except DecodeError as error:
        str(error)
        return
    if unpack(pack(found, 1 << 20)) != found:
        raise AssertionError(f"{found} does not survive")


def row(data: bytes) -> None:
    """Any stored row or revision is one, or a `DecodeError`."""
    try:
        decode_revision(data, "id", "v")
    except DecodeError as error:
        str(error)
    try:
        decode_meta(["id", "v", 1, 1, len(data), 5, "", "", 0, None, data.decode("utf-8", "replace")])
    except DecodeError as error:
        str(error)


_EACH: tuple[Callable[[bytes], Any], ...] = (config, config_file, query, condition, record, message, row)


def anything(data: bytes) -> None:
    """All of them by turns: the first byte says which."""
    if data:
        _EACH[data[0] % len(_EACH)](data[1:])


TARGETS = {target.__name__: target for target in (*_EACH, anything)}


def main() -> None:
    """Fuzz one target."""
    name, runs, seed, corpus = sys.argv[1:]
    options = [sys.argv[0], f"-runs={runs}", f"-seed={seed}", f"-max_len={_LONGEST}", "-timeout=20", "-verbosity=0"]
    atheris.Setup([*options, f"-artifact_prefix={corpus}/", corpus], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
