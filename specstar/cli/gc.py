"""`specstar gc`: remove what killed writers and unfinished uploads left behind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from specstar import SpecStar

__all__ = ["gc"]


def gc(
    target: str,
    /,
    *,
    older_than_seconds: float = 3600.0,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Remove payloads, blob parts and upload sessions that nothing refers to, left by killed writers.

    Parameters
    ----------
    target
        MODULE:NAME of the program's SpecStar object, or the path of a JSON configuration. A configuration names no
        models: only blobs are cleaned then.
    older_than_seconds
        Keep what is younger: a write may still be under way.
    json
        Print JSON.
    """
    import anyio

    from specstar.cli.output import print_json, print_table

    removed = anyio.run(_collect, _spec(target), older_than_seconds)
    if json:
        print_json({"removed": removed})
    else:
        print_table(("of", "removed"), [(name, str(count)) for name, count in removed.items()])
    return 0


def _spec(target: str) -> SpecStar:
    if ":" in target and not Path(target).exists():
        from specstar.cli.target import load_spec

        return load_spec(target)
    from specstar import SpecStar

    spec = SpecStar()
    spec.configure(backend=target)
    return spec


async def _collect(spec: SpecStar, older_than_seconds: float) -> dict[str, int]:
    async with spec:
        return await spec.collect_garbage(older_than_seconds=older_than_seconds)
