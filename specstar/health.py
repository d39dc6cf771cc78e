"""`check()`: does every role answer, how fast, and which server is it?"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import anyio
from msgspec import Struct

from specstar.config import ResolvedBackend
from specstar.config.structs import Role
from specstar.errors import BackendUnavailable, SpecstarError
from specstar.resource_manager.binding import context_of
from specstar.runtime import Gate

__all__ = ["RoleReport", "check_roles"]

logger: logging.Logger = logging.getLogger("specstar")


class RoleReport(Struct, frozen=True, kw_only=True):
    """The state of one role. `latency_seconds` is one round trip to the open connection; `problem` is None if all is well.

    `model` names the model whose own storage this is; None for what the configuration binds.
    """

    role: Role
    model: str | None = None
    backend: str
    connection: str | None = None
    ok: bool
    latency_seconds: float | None = None
    server_version: str | None = None
    detail: str = ""
    problem: str | None = None


async def check_roles(
    gate: Gate, bindings: Sequence[tuple[str | None, Role, ResolvedBackend]], *, timeout: float
) -> list[RoleReport]:
    """Ask all at once; the reports in the order of the bindings: model, role, backend."""
    reports: dict[int, RoleReport] = {}
    async with anyio.create_task_group() as group:

        async def check(place: int, model: str | None, role: Role, bound: ResolvedBackend) -> None:
            reports[place] = await _check_role(gate, model, role, bound, timeout=timeout)

        for place, binding in enumerate(bindings):
            group.start_soon(check, place, *binding)
    return [reports[place] for place in range(len(bindings))]


async def _check_role(
    gate: Gate, model: str | None, role: Role, bound: ResolvedBackend, *, timeout: float
) -> RoleReport:
    """Open the role's connection if need be, and ask it. Never raises for a backend's failure: reports it."""
    report: dict[str, Any] = {"role": role, "model": model, "backend": bound.type, "connection": bound.connection}
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
