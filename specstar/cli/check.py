"""`specstar check`: does every role answer?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from specstar.errors import ConfigError

if TYPE_CHECKING:
    from specstar.health import RoleReport

__all__ = ["check"]


def check(
    file: str,
    /,
    *,
    timeout: float = 10.0,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Open every role of a configuration and report each: backend, latency, server version, problem.

    Parameters
    ----------
    file
        Path of a JSON configuration.
    timeout
        The longest wait for a role, in seconds.
    json
        Print JSON, problems of the configuration included.
    """
    import anyio

    from specstar.cli.output import print_json, print_table

    try:
        reports = anyio.run(_reports, file, timeout)
    except ConfigError as error:
        if json:
            print_json({"file": file, "ok": False, "problems": [_problem(problem) for problem in error.problems]})
        raise
    healthy = all(report.ok for report in reports)
    if json:
        print_json({"file": file, "ok": healthy, "roles": [_plain(report) for report in reports]})
    else:
        print_table(("role", "backend", "connection", "state", "latency", "server", "detail"), map(_row, reports))
    return 0 if healthy else 1


async def _reports(file: str, timeout: float) -> list[RoleReport]:
    from specstar import SpecStar

    spec = SpecStar()
    await spec.configure(backend=file)
    async with spec:
        return await spec.check(timeout=timeout)


def _row(report: RoleReport) -> tuple[str, ...]:
    latency = "" if report.latency_seconds is None else f"{report.latency_seconds * 1000:.1f} ms"
    return (
        report.role,
        report.backend,
        report.connection or "-",
        "ok" if report.ok else "FAILED",
        latency,
        report.server_version or "",
        report.problem or report.detail,
    )


def _plain(report: RoleReport) -> dict[str, Any]:
    # A file has no models.
    return {name: getattr(report, name) for name in report.__struct_fields__ if name != "model"}


def _problem(problem: Any) -> dict[str, Any]:
    return {"path": problem.path, "reason": problem.reason, "suggestion": problem.suggestion}
