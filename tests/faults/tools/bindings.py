"""Configurations of real backends for the fault tests, by short names: meta, resource and blobs, then the queue."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest

from tests.faults.tools.stores import s3_binding

__all__ = ["Backend", "configuration", "is_durable"]

Backend = dict[str, Any]


def configuration(kind: str, request: pytest.FixtureRequest, folder: Path) -> Backend:
    """A fresh, empty place each time, on the servers of the session.

    `kind` is memory, disk, postgres or s3, or two of them for meta and for resources, such as "postgres+s3"; then
    "/rabbitmq" for jobs that do not go through the simple queue. PostgreSQL lends its blobs from memory.
    """
    stores, _, queue = kind.partition("/")
    meta, _, resource = stores.partition("+")
    name = f"t{secrets.token_hex(6)}"
    first = _store(meta, request, folder, name)
    second = _store(resource, request, folder, name) if resource else first
    blob = second if second["type"] != "postgres" else {"type": "memory"}
    return {"meta": first, "resource": second, "blob": blob, "mq": _queue(queue or "simple", request, name)}


def is_durable(backend: Backend) -> bool:
    """True if resources outlive the program; blobs lent from memory do not."""
    return bool(backend["meta"]["type"] != "memory")


def _store(kind: str, request: pytest.FixtureRequest, folder: Path, name: str) -> Backend:
    if kind == "memory":
        return {"type": "memory"}
    if kind == "disk":
        options: dict[str, Any] = {"rootdir": str(folder / name), "inline_payload_bytes": 256}
    elif kind == "postgres":
        options = {"dsn": request.getfixturevalue("postgres_database"), "schema": name, "pool_max_size": 2}
    else:
        assert kind == "s3", kind
        return s3_binding(request.getfixturevalue("s3"), request.getfixturevalue("s3_bucket"), name)
    return {"type": kind, "options": options}


def _queue(kind: str, request: pytest.FixtureRequest, name: str) -> Backend:
    options: dict[str, Any] = {"retry_delay_seconds": 0}
    if kind == "rabbitmq":
        options |= {"amqp_url": request.getfixturevalue("amqp_url"), "queue_prefix": f"{name}:"}
    return {"type": kind, "options": options}
