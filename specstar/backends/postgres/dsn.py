"""What can be said of a DSN without the driver: its mistakes, and a form that is safe to show."""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl

from specstar.backends import urls

__all__ = ["dsn_problem", "hide_password", "lacks_root_certificate", "parameters", "server_name", "unreadable_file"]

_SCHEMES = ("postgresql://", "postgres://")
_SECRET_PARAMETER = re.compile(r"([?&](?:password|sslpassword)=)[^&#]*", re.IGNORECASE)
# Behind the name, or the brackets of an IPv6 address.
_PORT = re.compile(r":([^:\]]{0,100})$")
_MAY_HOLD_AT = frozenset({"user", "password", "application_name", "options"})
_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_VERIFYING = frozenset({"verify-ca", "verify-full"})
_MAX_PORT = 65_535
_EXAMPLE = "postgresql://user:password@host:5432/database"


def dsn_problem(dsn: str) -> str | None:
    """What is wrong with a DSN, or None. Never shows any part of it but the scheme."""
    if not dsn.strip():
        return f"required: a PostgreSQL DSN such as {_EXAMPLE} (the alias connection_string is accepted too)"
    if wrong := urls.wrong_scheme(dsn, _SCHEMES, _EXAMPLE):
        return wrong
    if "\0" in dsn or any(character.isspace() for character in dsn):
        return "holds a space, line end or NUL: percent-encode it (%20), or remove it"
    if "#" in dsn:
        return "holds a '#': percent-encode reserved characters in user and password (# is %23, @ is %40, / is %2F)"
    before_at = dsn.partition("://")[2].rpartition("@")[0]
    if ("/" in before_at and "?" not in before_at) or ("?" in before_at and "=" not in before_at.partition("?")[2]):
        return "holds a '/' or '?' before its '@': percent-encode them in user and password (/ is %2F, ? is %3F)"
    # A password such as "1/x?y=2" looks like the end of a host, a database and a parameter.
    if any("@" in pair and pair.partition("=")[0] not in _MAY_HOLD_AT for pair in _query(dsn).split("&")):
        return (
            "holds an '@' behind a '?': percent-encode it there (%40), and '/' and '?' in user and password (%2F, %3F)"
        )
    hosts = dsn.partition("://")[2].partition("?")[0].rpartition("@")[2].partition("/")[0]
    for place in map(_PORT.search, hosts.split(",")):
        port = place[1] if place else ""
        if port and not (port.isascii() and port.isdecimal() and 1 <= int(port) <= _MAX_PORT):
            return f"has a port that is no number from 1 to {_MAX_PORT}; e.g. {_EXAMPLE}"
    return None


def server_name(dsn: str) -> str:
    """Host, port and database of a DSN, or less where they may be part of a password: what an error may show."""
    if "@" in _query(dsn):
        return "PostgreSQL at the host of the dsn"
    authority, _, path = dsn.partition("://")[2].partition("?")[0].partition("/")
    host = authority.rpartition("@")[2] or "the local socket"
    return f"PostgreSQL at {host}/{path}" if path else f"PostgreSQL at {host}"


def parameters(dsn: str) -> dict[str, str]:
    """What stands behind the '?', decoded; of a name that comes twice the last."""
    return dict(parse_qsl(_query(dsn)))


def unreadable_file(dsn: str) -> str | None:
    """The first parameter of a DSN that names a file which is not there, or may not be read."""
    named = parameters(dsn)
    return next((name for name in _FILES if name in named and not os.access(named[name], os.R_OK)), None)


def lacks_root_certificate(dsn: str) -> bool:
    """True if the DSN demands that the server's certificate is verified, and names none to verify it with."""
    named = parameters(dsn)
    return named.get("sslmode", "") in _VERIFYING and not named.get("sslrootcert")


def _query(dsn: str) -> str:
    return dsn.partition("?")[2]


def hide_password(dsn: str) -> str:
    """The DSN with `***` in place of its passwords; nothing but `***` if it does not look like a DSN."""
    return urls.hide_password(dsn, _SCHEMES, _SECRET_PARAMETER)
