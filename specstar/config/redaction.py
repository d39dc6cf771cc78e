"""Options in a form that is safe to print: secrets as `***`, passwords out of URLs."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, cast

from msgspec import Struct

__all__ = ["HIDDEN", "Redacted", "looks_secret", "redacted", "redacted_options", "secret_names"]

HIDDEN = "***"

_SECRET_NAME = re.compile(
    r"passw|pwd|secret|token|credential|private|api_?key|access_?key|account_?key|^key$|^auth|_auth$|^pin$|signature",
    re.IGNORECASE,
)
# Greedy up to the last @: a password with an unescaped / or @ must not show in part.
_URL_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://).*@", re.DOTALL)
_KNOWN_SCHEME = re.compile(
    r"(?:postgres|postgresql|amqps?|https?|s3|rediss?|mysql|mongodb)(?:\+[a-z]+)?://", re.IGNORECASE
)
_BARE_USER = re.compile(r"^[^@\s]*:[^\s]*@", re.DOTALL)
_SECRET_PARAMETER = re.compile(
    r"((?:[A-Za-z0-9_.-]*(?:passw|pwd|secret|token|credential|signature|api_?key|access_?key))[A-Za-z0-9_.-]*\s*=\s*)"
    r"(?:'(?:[^'\\]|\\.)*'|\"[^\"]*\"|[^\s&]+)",
    re.IGNORECASE,
)


def looks_secret(name: str) -> bool:
    """Whether an option of this name holds a secret by the look of it."""
    return _SECRET_NAME.search(name) is not None


def secret_names(options_type: type[Struct]) -> frozenset[str]:
    """The attributes that hold secrets: those its class names in `secrets`, and those that look so."""
    declared: Collection[str] = getattr(options_type, "secrets", ())
    return frozenset(declared) | {name for name in options_type.__struct_fields__ if looks_secret(name)}


class Redacted:
    """Makes a struct print without its secrets. One that knows better what to hide has a `__rich_repr__` of its own."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return list(redacted_options(cast("Struct", self)).items())


def redacted_options(options: Struct) -> dict[str, Any]:
    """All options by name, safe to print. A secret URL shows its host, any other secret that is set shows `***`."""
    secrets = secret_names(type(options))
    return {name: redacted(getattr(options, name), secret=name in secrets) for name in options.__struct_fields__}


def redacted(value: Any, *, secret: bool = False) -> Any:
    """A value without its secrets, inside mappings and sequences too."""
    if isinstance(value, str):
        scheme = _KNOWN_SCHEME.match(value)
        if secret and value and scheme is None:
            return HIDDEN
        # An @ behind the ? belongs to a value there, or to a password that is not percent-encoded: nobody can tell.
        if scheme is not None and "@" in value.partition("?")[2]:
            return f"{scheme[0]}{HIDDEN}"
        shown = _URL_USER.sub(rf"\1{HIDDEN}@", value)
        shown = _BARE_USER.sub(f"{HIDDEN}@", shown) if "://" not in shown else shown
        return _SECRET_PARAMETER.sub(rf"\1{HIDDEN}", shown)
    if isinstance(value, dict):
        return {key: redacted(member, secret=secret or looks_secret(str(key))) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(member, secret=secret) for member in value]
    if isinstance(value, Struct):
        return redacted_options(value)
    if secret and value is not None and value is not False and value is not True:
        return HIDDEN
    return value
