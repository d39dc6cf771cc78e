"""Starting: imports, configuration, and what an idle spec holds."""

from __future__ import annotations

from benchmarks.case import Case, Entry, Scale, Suite, Target

__all__ = ["start"]

_DISK = {role: {"type": "disk", "options": {"rootdir": "{folder}"}} for role in ("meta", "resource", "blob")}
_EVERY_NAME = (
    "from specstar import BackendConfig, DelayRetry, Job, NoRetry, QB, Resource, ResourceMeta, RevisionInfo, SpecStar"
)
_MODULES = (
    "specstar.core",
    "specstar.health",
    "specstar.config",
    "specstar.backends.disk.storage",
    "specstar.backends.disk.blob",
    "anyio._backends._asyncio",
)


def start(scale: Scale) -> Suite:
    """Beside importing the dependencies alone, and pydantic-settings."""
    return Suite(
        name="start",
        entries=(
            Entry(
                name="import specstar",
                cls="fresh_process:FreshProcess",
                setting={"statement": "import specstar"},
                ours=True,
            ),
            Entry(
                name="all its names", cls="fresh_process:FreshProcess", setting={"statement": _EVERY_NAME}, ours=True
            ),
            Entry(
                name="import anyio, msgspec",
                cls="fresh_process:FreshProcess",
                setting={"statement": "import anyio, msgspec"},
            ),
            Entry(name="specstar", cls="config:Specstar", ours=True),
            Entry(name="pydantic-settings", cls="config:PydanticSettings"),
            Entry(name="idle spec", cls="idle:IdleSpec", setting={"backend": _DISK, "imports": _MODULES}, ours=True),
        ),
        cases=(
            Case(
                operation="import",
                title="import in a fresh process",
                callers=1,
                unit="ms",
                better="lower",
                entries=("import specstar", "all its names", "import anyio, msgspec"),
                targets=(Target(entry="import specstar", against="import anyio, msgspec", at_most=1.3),),
            ),
            Case(
                operation="resolve",
                title="decode and resolve a full configuration",
                callers=1,
                unit="us",
                better="lower",
                entries=("specstar", "pydantic-settings"),
                targets=(Target(at_most=200), Target(against="pydantic-settings", at_least=5)),
            ),
            Case(
                operation="idle",
                title="memory of an idle spec over its imports",
                fresh=True,
                callers=1,
                unit="MiB",
                better="lower",
                entries=("idle spec",),
                targets=(Target(entry="idle spec", at_most=5),),
            ),
        ),
        notes=(
            (
                "`import specstar` loads its names when they are first used; the second row loads them all, with the standard "
                "library modules behind them. Neither loads a driver."
            ),
            (
                "pydantic-settings does the same job as its users write it: a JSON file under environment variables, a model for "
                "each backend type, defaults merged in; the results are compared before measuring."
            ),
        ),
    )
