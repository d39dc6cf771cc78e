"""A program on PostgreSQL whose limits are short, and what they promise together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from specstar import SpecStar
from specstar.resource_manager import ResourceManager
from tests.faults.tools.managed_load import Entry

__all__ = ["CALL_LIMIT", "end_sessions", "program"]

TURN, CONNECT, ANSWER = 3.0, 1.0, 2.0
# A call waits for one batch before its own; a batch waits for a turn, a connection and an answer, and, if that was lost,
# as long as for a turn to find out.
CALL_LIMIT = 2 * (TURN + CONNECT + ANSWER + TURN)


@asynccontextmanager
async def program(
    dsn: str, *, resource: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[ResourceManager[Entry]]:
    """The manager of a program with its own pool; `resource` is the backend of payloads if it is not PostgreSQL."""
    limits = {
        "acquire_timeout_seconds": TURN,
        "connect_timeout_seconds": CONNECT,
        "command_timeout_seconds": ANSWER,
        **options,
    }
    backend = {"type": "postgres", "options": {"dsn": dsn, **limits}}
    spec = SpecStar()
    spec.configure(backend={"meta": backend, "resource": resource or backend})
    users = spec.add_model(Entry, indexed_fields=["caller"])
    async with spec:
        yield users


async def end_sessions(look: Any) -> int:
    """Have the server end the connections of all programs in the database of this connection; how many there were."""
    ended: int = await look.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'specstar'"
    )
    return ended
