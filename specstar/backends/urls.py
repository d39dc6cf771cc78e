"""What is the same in the addresses of servers, whatever the server: their scheme, and a form that is safe to show."""

from __future__ import annotations

import re

__all__ = ["hide_password", "wrong_scheme"]


def wrong_scheme(url: str, schemes: tuple[str, str], example: str) -> str | None:
    """What is wrong with the beginning of a URL, or None. Shows no part of it but the scheme."""
    if url.startswith(schemes):
        return None
    scheme, separator, _ = url.partition("://")
    found = f", not with {scheme!r}" if separator and scheme.replace("+", "").isalnum() else ""
    return f"must begin with {schemes[0]} or {schemes[1]}{found}; e.g. {example}"


def hide_password(url: str, schemes: tuple[str, str], secret_parameter: re.Pattern[str]) -> str:
    """The URL with `***` in place of its password and of its secret parameters, `***` alone if it has another scheme.

    `secret_parameter` matches one, with its name as the first group.
    """
    if not url:
        return ""
    if not url.startswith(schemes):
        return "***"
    scheme, _, rest = url.partition("://")
    before, at, after = rest.rpartition("@")
    if at:
        user, colon, _ = before.partition(":")
        rest = f"{user}:***@{after}" if colon else rest
    return secret_parameter.sub(r"\1***", f"{scheme}://{rest}")
