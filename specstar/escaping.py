"""Foreign text for logs and terminals."""

from __future__ import annotations

__all__ = ["escaped"]


def escaped(text: str, *, keep: str = "") -> str:
    """The text with control and format characters escaped, but for those to `keep`: it steers no terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)
