"""Is there an order of the calls on one key that explains all answers? The search of Wing and Gong, with what it has seen.

A call takes effect at one moment between its beginning and its end. A call whose outcome is unknown may take effect at any
moment after its beginning, or never.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

__all__ = ["Call", "explain", "is_linearizable"]

State = TypeVar("State", bound=Hashable)


@dataclass(frozen=True)
class Call:
    """One call: what was asked, what came back, and when. `known` is False if nobody can tell whether it was made."""

    kind: str
    arguments: tuple[Any, ...]
    answer: Any
    begin: float
    end: float = math.inf
    known: bool = True
    caller: str = ""


Step = Callable[[Any, Call], "tuple[bool, Any]"]
"""Whether a call may have this answer in a state, and the state after it."""


def is_linearizable(history: Sequence[Call], first: Hashable, step: Step) -> bool:
    """True if some order of the calls, each within its time, gives every answer."""
    calls = sorted(history, key=lambda call: call.begin)
    everyone = frozenset(range(len(calls)))
    must = frozenset(number for number in everyone if calls[number].known)
    seen: set[tuple[frozenset[int], Hashable]] = set()
    waiting: list[tuple[frozenset[int], Any]] = [(everyone, first)]
    while waiting:
        left, state = waiting.pop()
        if not left & must:
            return True
        if (left, state) in seen:
            continue
        seen.add((left, state))
        # Whoever began before the first of the others ended may be next.
        first_end = min(calls[number].end for number in left)
        for number in left:
            call = calls[number]
            if call.begin > first_end:
                continue
            possible, after = step(state, call)
            if possible:
                waiting.append((left - {number}, after))
    return False


def explain(history: Sequence[Call]) -> str:
    """The history as lines, in order of beginning."""
    lines = [
        f"{call.begin:9.6f} to {call.end:9.6f} {call.caller:>6} {call.kind}{call.arguments!r} -> "
        f"{call.answer!r}{'' if call.known else ' (unknown)'}"
        for call in sorted(history, key=lambda call: call.begin)
    ]
    return "\n".join(lines)
