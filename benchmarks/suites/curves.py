"""Curves: throughput and latency against callers, and the cost of an operation as data grows. Only in the full run."""

from __future__ import annotations

from typing import Any

from benchmarks.case import Case, Entry, Scale, Suite, Target

__all__ = ["growth", "load"]

_CALLERS = (1, 4, 16, 64, 256, 512)
_GROWN = {
    "create": "create in a table of so many resources",
    "get": "get in a table of so many resources",
    "update": "update in a table of so many resources, one after the other",
    "update_anywhere": "update in a table of so many resources, anywhere",
}
_KEPT_RATE = 0.7


def load(scale: Scale) -> Suite:
    """Against the number of callers."""
    pg = {"type": "postgres", "options": {"dsn": "{POSTGRES_DSN}", "table_prefix": "load_"}}
    disk = {"type": "disk", "options": {"rootdir": "{folder}"}}
    raw = {"pool_size": 8, "search_rows": 1000}
    return Suite(
        name="load",
        servers=("postgres",),
        entries=(
            Entry(
                name="PostgreSQL",
                cls="resources:Resources",
                setting={"backend": {"meta": pg, "resource": pg}},
                ours=True,
            ),
            Entry(name="asyncpg", cls="postgres_raw:RawAsyncpg", setting=raw),
            Entry(
                name="disk", cls="resources:Resources", setting={"backend": {"meta": disk, "resource": disk}}, ours=True
            ),
            Entry(name="files by hand", cls="files:HandwrittenFiles"),
        ),
        cases=tuple(
            Case(
                operation=operation,
                title=operation,
                callers=callers,
                entries=("PostgreSQL", "asyncpg", "disk", "files by hand"),
                curve=f"{operation} against callers",
                quick=False,
            )
            for operation in ("create", "get")
            for callers in _CALLERS
        ),
        notes=("PostgreSQL and disk are specstar.",),
    )


def growth(scale: Scale) -> Suite:
    """Against the number of resources: one process for each size, filled before measuring."""
    sizes = scale.sizes
    entries: list[Entry] = []
    cases: list[Case] = []
    points: dict[str, tuple[str, int]] = {}
    for kind in ("disk", "PostgreSQL"):
        for size in sizes:
            points[f"{kind}, {size:,}"] = kind, size
            entries.append(
                Entry(
                    name=f"{kind}, {size:,}",
                    cls="grown:Grown",
                    setting={"backend": _backend(kind, size), "size": size},
                    ours=True,
                )
            )
    smallest, largest = sizes[0], sizes[-1]
    for operation, title in _GROWN.items():
        targets = tuple(
            Target(entry=f"{kind}, {largest:,}", against=f"{kind}, {smallest:,}", at_least=_KEPT_RATE)
            for kind in ("disk", "PostgreSQL")
            if largest > smallest
        )
        cases.append(
            Case(
                operation=operation,
                title=title,
                callers=64,
                entries=tuple(entry.name for entry in entries),
                targets=targets,
                quick=False,
                x_label="resources in the store",
                points=points,
            )
        )
    return Suite(
        name="growth",
        servers=("postgres",),
        entries=tuple(entries),
        cases=tuple(cases),
        notes=(
            (
                "Gets are spread at random over all resources. Updates take them in the order in which they were made, so that "
                "those of one moment lie near to each other, or, anywhere, at random."
            ),
            "The tables are filled by `create_many`.",
        ),
    )


def _backend(kind: str, size: int) -> dict[str, Any]:
    if kind == "disk":
        bound: dict[str, Any] = {"type": "disk", "options": {"rootdir": "{folder}"}}
    else:
        bound = {"type": "postgres", "options": {"dsn": "{POSTGRES_DSN}", "table_prefix": f"grown_{size}_"}}
    return {"meta": bound, "resource": bound}
