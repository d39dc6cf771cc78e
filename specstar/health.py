"""`check()`: does every role answer, how fast, and which server is it?"""

from __future__ import annotations

import logging
import time
from typing import Any

import anyio
from msgspec import Struct

from specstar.config import ResolvedBackend
from specstar.config.structs import Role
from specstar.errors import BackendUnavailable, SpecstarError
from specstar.resource_manager.binding import context_of
from specstar.runtime import Gate

__all__ = ["RoleReport", "check_role"]

logger = logging.getLogger("specstar")


class RoleReport(Struct, frozen=True, kw_only=True):
    """The state of one role. `latency_seconds` is one round trip to the open connection; `problem` is None if all is well."""

    role: Role
    backend: str
    connection: str | None = None
    ok: bool
    latency_seconds: float | None = None
    server_version: str | None = None
    detail: str = ""
    problem: str | None = None


async def check_role(gate: Gate, role: Role, bound: ResolvedBackend, *, timeout: float) -> RoleReport:
    """Open the role's connection if need be, and ask it. Never raises for a backend's failure: reports it."""
    report: dict[str, Any] = {"role": role, "backend": bound.type, "connection": bound.connection}
    try:
        with anyio.fail_after(timeout):
            connection = await context_of(gate, bound).connection.get()
            started = time.perf_counter()
            info = await connection.ping()
            latency = time.perf_counter() - started
    except TimeoutError:
        problem = str(BackendUnavailable(f"no answer within {timeout:g} s", role=role, backend=bound.type))
        return RoleReport(ok=False, problem=problem, **report)
    except SpecstarError as error:
        return RoleReport(ok=False, problem=str(error), **report)
    return RoleReport(ok=True, latency_seconds=latency, server_version=info.version, detail=info.detail, **report)
