"""`specstar copy`: all that a program keeps, into the backends of another configuration."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from specstar.errors import UsageError

if TYPE_CHECKING:
    from specstar import CopyReport, SpecStar

__all__ = ["copy"]


def copy(
    target: str,
    backend: str,
    /,
    *,
    model: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    stays: Annotated[tuple[str, ...], Parameter(negative="")] = (),
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
    model
        NAME=FILE: this model goes to another configuration; give it once for each. One with a storage of its own
        (add_model(storage_factory=...)) must be named, here or by --stays, or it counts as failed.
    stays
        NAME of a model that is not copied; give it once for each.
    json
        Print JSON.
    """
    import anyio
    import msgspec

    from specstar.cli.output import print_json, print_table, print_text
    from specstar.cli.target import load_spec

    models = _models(model, stays)
    reports = anyio.run(_copy, load_spec(target), backend, models)
    if json:
        print_json({"copied": msgspec.to_builtins(reports)})
    else:
        rows = [(each.name, str(each.copied), str(each.unchanged), str(each.failed)) for each in reports]
        print_table(("of", "copied", "unchanged", "failed"), rows)
        for report in reports:
            for problem in report.problems:
                print_text(f"{report.name} {problem}")
    return 0 if all(report.ok for report in reports) else 1


def _models(elsewhere: Iterable[str], stay: Iterable[str]) -> dict[str, str | None]:
    models: dict[str, str | None] = {}
    for given in elsewhere:
        name, equals, backend = given.partition("=")
        if not (name and equals and backend):
            raise UsageError(f"--model takes NAME=FILE, such as Archive=archive.json, not {given!r}")
        models[name] = backend
    return models | dict.fromkeys(stay)


async def _copy(spec: SpecStar, backend: str, models: dict[str, str | None]) -> list[CopyReport]:
    async with spec:
        return await spec.copy_to(backend, models=models, progress=_tell if sys.stderr.isatty() else None)


def _tell(report: CopyReport) -> None:
    from specstar.cli.output import printable

    done = report.copied + report.unchanged + report.failed
    print(f"{printable(report.name)}: {done}", end="\r", file=sys.stderr, flush=True)
