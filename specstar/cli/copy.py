"""`specstar copy`: all that a program keeps, into the backends of another configuration."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from specstar import CopyReport, SpecStar

__all__ = ["copy"]


def copy(
    target: str,
    backend: str,
    /,
    *,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Copy all resources of a program's models, with their revisions, and all blobs, and compare what was copied.

    What is there and equal stays, so that it can be repeated. Let nothing write meanwhile, and no workers run. The exit
    status is 1 if anything was not copied.

    Parameters
    ----------
    target
        MODULE:NAME of the program's SpecStar object, such as app.jobs:spec. The module must configure it.
    backend
        Path of the JSON configuration to copy to.
    json
        Print JSON.
    """
    import anyio
    import msgspec

    from specstar.cli.output import print_json, print_table, print_text
    from specstar.cli.target import load_spec

    reports = anyio.run(_copy, load_spec(target), backend)
    if json:
        print_json({"copied": msgspec.to_builtins(reports)})
    else:
        rows = [(each.name, str(each.copied), str(each.unchanged), str(each.failed)) for each in reports]
        print_table(("of", "copied", "unchanged", "failed"), rows)
        for report in reports:
            for problem in report.problems:
                print_text(f"{report.name} {problem}")
    return 0 if all(report.ok for report in reports) else 1


async def _copy(spec: SpecStar, backend: str) -> list[CopyReport]:
    async with spec:
        return await spec.copy_to(backend, progress=_tell if sys.stderr.isatty() else None)


def _tell(report: CopyReport) -> None:
    from specstar.cli.output import printable

    done = report.copied + report.unchanged + report.failed
    print(f"{printable(report.name)}: {done}", end="\r", file=sys.stderr, flush=True)
