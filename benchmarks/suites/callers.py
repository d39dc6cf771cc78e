"""The same calls from asyncio, trio and threads."""

from __future__ import annotations

from typing import Any

from benchmarks.case import Case, Entry, Scale, Suite, Target

__all__ = ["callers"]


def callers(scale: Scale) -> Suite:
    """On PostgreSQL, whose driver lives on asyncio: trio and threads cross to its loop."""
    options = {"dsn": "{POSTGRES_DSN}", "pool_max_size": 8}

    def setting(prefix: str) -> dict[str, Any]:
        bound = {"type": "postgres", "options": {**options, "table_prefix": prefix}}
        return {"backend": {"meta": bound, "resource": bound}, "rows": 2000}

    everyone = ("asyncio", "trio", "threads", "run_coroutine_threadsafe")
    one_call = (
        Target(entry="threads", against="run_coroutine_threadsafe", at_most=1.2),
        Target(entry="trio", against="run_coroutine_threadsafe", at_most=3),
    )
    many = (
        Target(entry="threads", against="asyncio", at_least=0.5),
        Target(entry="trio", against="asyncio", at_least=0.4),
    )
    return Suite(
        name="callers",
        servers=("postgres",),
        entries=(
            Entry(name="asyncio", cls="resources:Resources", setting=setting("a_"), ours=True),
            Entry(name="trio", cls="resources:TrioResources", setting=setting("t_"), ours=True),
            Entry(name="threads", cls="sync_resources:BlockingResources", setting=setting("s_"), ours=True),
            Entry(
                name="threads (32)",
                cls="sync_resources:BlockingResources",
                setting=setting("s_"),
                callers=32,
                ours=True,
            ),
            Entry(
                name="threads (32), one core",
                cls="sync_resources:BlockingResources",
                setting={**setting("s_"), "one_core": True},
                callers=32,
                ours=True,
            ),
            Entry(name="run_coroutine_threadsafe", cls="sync_resources:Threadsafe", setting=setting("r_")),
        ),
        cases=(
            Case(operation="get", title="get", callers=1, entries=everyone, targets=one_call),
            Case(operation="create", title="create", callers=1, entries=everyone, targets=one_call),
            Case(
                operation="get",
                title="get",
                callers=64,
                entries=("asyncio", "trio", "threads (32)", "threads (32), one core"),
                targets=tuple(_renamed(target) for target in many),
            ),
            Case(
                operation="create",
                title="create",
                callers=64,
                entries=("asyncio", "trio", "threads (32)", "threads (32), one core"),
                targets=tuple(_renamed(target) for target in many),
            ),
        ),
        notes=(
            (
                "specstar on PostgreSQL throughout. `threads` is the blocking facade `specstar.sync`, `run_coroutine_threadsafe` "
                "the asynchronous specstar on a loop in a thread, called by hand."
            ),
            (
                "`threads (32)`: 32 threads beside 64 callers of the others. `one core`: the process with the threads may use "
                "one core only (`taskset`), so that the interpreter's lock never goes from one core to another."
            ),
        ),
    )


def _renamed(target: Target) -> Target:
    entry = "threads (32)" if target.entry == "threads" else target.entry
    return Target(entry=entry, against=target.against, at_least=target.at_least)
