"""The name that was meant, where one is not known: what an error offers instead."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["closest", "did_you_mean"]

_LONGEST_NAME = 200


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to this one, if any is close; capitals do not matter."""
    # Imported where a name is wrong: most programs never need it.
    from difflib import get_close_matches

    by_fold = {candidate.casefold(): candidate for candidate in known}
    found = get_close_matches(name[:_LONGEST_NAME].casefold(), by_fold, n=1)
    return by_fold[found[0]] if found else None


def did_you_mean(suggestion: str | None) -> str:
    """The end of a message that offers the suggestion; empty if there is none."""
    return f" (did you mean {suggestion!r}?)" if suggestion else ""
