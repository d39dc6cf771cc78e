"""Resources in memory."""

from __future__ import annotations

from benchmarks.case import Case, Entry, Scale, Suite, Target

__all__ = ["memory"]

_BACKEND = {role: {"type": "memory"} for role in ("meta", "resource", "blob")}
_OURS = "resources:Resources"
_ALL = ("specstar", "specstar on trio", "specstar 0.12.3")


def memory(scale: Scale) -> Suite:
    """specstar on both event loops, beside specstar 0.12.3."""
    return Suite(
        name="memory",
        entries=(
            Entry(name="specstar", cls=_OURS, setting={"backend": _BACKEND}, ours=True),
            Entry(name="specstar on trio", cls="resources:TrioResources", setting={"backend": _BACKEND}, ours=True),
            Entry(
                name="specstar 0.12.3", cls="old_specstar:OldSpecstar", environment="old", setting={"backend": _BACKEND}
            ),
        ),
        cases=(
            Case(
                operation="create",
                title="create",
                callers=64,
                entries=_ALL,
                targets=(
                    Target(against="specstar 0.12.3", at_least=5),
                    Target(entry="specstar on trio", against="specstar", at_least=0.4),
                ),
            ),
            Case(
                operation="get",
                title="get",
                callers=64,
                entries=_ALL,
                targets=(
                    Target(against="specstar 0.12.3", at_least=5),
                    Target(entry="specstar on trio", against="specstar", at_least=0.4),
                ),
            ),
            Case(
                operation="update",
                title="update, conditional",
                callers=64,
                entries=_ALL,
                targets=(Target(entry="specstar on trio", against="specstar", at_least=0.4),),
            ),
            Case(
                operation="search",
                title="indexed search over 10,000, limit 20",
                callers=64,
                entries=_ALL,
                targets=(
                    Target(against="specstar 0.12.3", at_least=50),
                    Target(entry="specstar on trio", against="specstar", at_least=0.4),
                ),
            ),
            Case(
                operation="gate",
                title="entering through the gate",
                callers=1,
                entries=("specstar",),
                unit="us",
                better="lower",
                targets=(Target(at_most=3),),
            ),
        ),
        notes=(
            "specstar 0.12.3 is synchronous and runs on one thread, its only way; nothing is durable for any of them.",
            "Conditional update: specstar 0.12.3 has no conditions and checks none.",
        ),
    )
