"""What can be said of an AMQP URL without the driver: its mistakes, and forms that are safe to show."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from specstar.backends import urls

__all__ = ["hide_password", "place", "unreadable_file", "url_problem"]

_SCHEMES = ("amqp://", "amqps://")
_SECRET_PARAMETER = re.compile(r"([?&](?:cadata|auth|keyfile)=)[^&#]*")
_EXAMPLE = "amqp://user:password@host:5672/vhost"
_PORTS = {"amqp": 5672, "amqps": 5671}
# The driver reads these from the URL; "heartbeat" and "timeout" have options of their own.
_PARAMETERS = frozenset({"auth", "cadata", "cafile", "capath", "certfile", "keyfile", "name", "no_verify_ssl"})
_FILES = ("cafile", "capath", "certfile", "keyfile")
_OWN = {"heartbeat": "amqp_heartbeat_seconds", "timeout": "connect_timeout_seconds"}


def url_problem(url: str) -> str | None:
    """What is wrong with a URL, or None. Never shows any part of it but the scheme and parameter names."""
    if not url.strip():
        return f"required: an AMQP URL such as {_EXAMPLE}"
    if wrong := urls.wrong_scheme(url, _SCHEMES, _EXAMPLE):
        return wrong
    if any(character.isspace() or ord(character) < 32 for character in url):
        return "holds a space, line end or control character: percent-encode it (%20), or remove it"
    if "#" in url:
        return "holds a '#': percent-encode reserved characters in user and password (# is %23, @ is %40, / is %2F)"
    before_query = url.partition("?")[0]
    authority, _, path = before_query.partition("://")[2].partition("/")
    if "@" not in authority and "@" in url.partition("://")[2]:
        return "holds a '/' or '?' before its '@': percent-encode them in user and password (/ is %2F, ? is %3F)"
    if authority.count("@") > 1:
        return "holds more than one '@': percent-encode it in user and password (%40)"
    if "/" in path:
        return "holds a '/' in its vhost: percent-encode it (%2F)"
    try:
        split = urlsplit(url)
        if not split.hostname:
            return f"names no host; e.g. {_EXAMPLE}"
        if split.port == 0:
            return "has port 0"
        names = [name for name, _ in parse_qsl(split.query, keep_blank_values=True)]
    except ValueError:
        return f"has no valid host or port (1 to 65535); e.g. {_EXAMPLE}"
    for name in names:
        if name in _OWN:
            return f"sets {name!r}: use the option {_OWN[name]} instead"
        if name not in _PARAMETERS:
            return f"has the unknown parameter {name!r}; known: {', '.join(sorted(_PARAMETERS))}"
    return None


def unreadable_file(url: str) -> str | None:
    """The first parameter of a URL that names a file (or, for capath, a folder) which is not there, or may not be read."""
    named = dict(parse_qsl(urlsplit(url).query))
    return next((name for name in _FILES if name in named and not _readable(name, named[name])), None)


def _readable(name: str, path: str) -> bool:
    return os.access(path, os.R_OK) and Path(path).is_dir() == (name == "capath")


def hide_password(url: str) -> str:
    """The URL with `***` in place of its password and key parameters; only `***` if it does not look like a URL."""
    return urls.hide_password(url, _SCHEMES, _SECRET_PARAMETER)


def place(url: str) -> str:
    """host:port and vhost, for messages."""
    split = urlsplit(url)
    host = split.hostname or ""
    host = f"[{host}]" if ":" in host else host
    vhost = unquote(split.path[1:]) if len(split.path) > 1 else "/"
    return f"{host}:{split.port or _PORTS[split.scheme]}" + ("" if vhost == "/" else f" (vhost {vhost!r})")
