"""What is wrong with options of the S3 backend that are well formed one by one. Shows no secret."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from specstar.backends.s3.options import S3Options
from specstar.suggestions import closest, did_you_mean

__all__ = ["problems_of"]

# What `aiobotocore.session.AioSession.create_client` takes beside the service name.
_CLIENT_ARGUMENTS = (
    "api_version",
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "config",
    "endpoint_url",
    "region_name",
    "use_ssl",
    "verify",
)
_CREDENTIALS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_NO_URL = "is no URL: write http://host:port, an IPv6 address in brackets"


def problems_of(options: S3Options) -> list[tuple[str, str]]:
    """Option names with what is wrong with them."""
    problems: list[tuple[str, str]] = []
    if (options.access_key_id is None) != (options.secret_access_key is None):
        missing = "access_key_id" if options.access_key_id is None else "secret_access_key"
        problems.append((missing, "access_key_id and secret_access_key go together: give both, or neither"))
    for name in ("access_key_id", "secret_access_key"):
        if wrong := _credential_problem(getattr(options, name)):
            problems.append((name, wrong))
    if options.endpoint_url is not None and (wrong := _endpoint_problem(options.endpoint_url)):
        problems.append(("endpoint_url", wrong))
    for name in ("prefix", "blob_prefix"):
        if wrong := _prefix_problem(getattr(options, name)):
            problems.append((name, wrong))
    problems += [("client_kwargs", wrong) for wrong in _client_problems(options.client_kwargs)]
    if options.part_size_bytes > options.multipart_threshold_bytes:
        problems.append(("part_size_bytes", "a part may not be larger than multipart_threshold_bytes"))
    return problems


def _client_problems(given: dict[str, Any]) -> list[str]:
    problems = []
    for name in given:
        if name not in _CLIENT_ARGUMENTS:
            hint = did_you_mean(closest(name, _CLIENT_ARGUMENTS)) or f"; known: {', '.join(_CLIENT_ARGUMENTS)}"
            problems.append(f"the S3 client takes no argument {name!r}{hint}")
    if not isinstance(given.get("verify"), bool | str | os.PathLike | None):
        problems.append("verify is true, false, or the path of a file of CA certificates")
    for name in _CREDENTIALS:
        if wrong := _credential_problem(given.get(name)):
            problems.append(f"{name} {wrong}")
    endpoint = given.get("endpoint_url")
    if endpoint is not None and (wrong := _endpoint_problem(endpoint) if isinstance(endpoint, str) else _NO_URL):
        problems.append(f"endpoint_url {wrong}")
    config = given.get("config")
    proxies = config.get("proxies") if isinstance(config, dict) else None
    if isinstance(proxies, dict):
        problems += [f"config.proxies.{scheme} {_NO_URL}" for scheme, url in proxies.items() if not _is_url(url)]
    return problems


def _credential_problem(value: Any) -> str | None:
    """What is wrong with a key or token. Shows nothing of it."""
    if value is None:
        return None
    if not isinstance(value, str):
        return "is text"
    if value != value.strip():
        return "begins or ends with white space: is it the line break of a file?"
    if not value.isprintable():
        return "has characters that cannot be printed"
    return None


def _endpoint_problem(url: str) -> str | None:
    """What is wrong with an endpoint, or None. Shows nothing of it: whoever wrote a password into it must not read it here."""
    if "@" in url:
        return "holds no user or password: use access_key_id and secret_access_key"
    if not _is_url(url):
        return _NO_URL
    parts = urlsplit(url)
    if not parts.hostname or any(char.isspace() for char in url):
        return "names no host: write http://host:port"
    if parts.query or parts.fragment:
        return "ends with the host or a path: ? and # have no meaning in it"
    return None


def _prefix_problem(prefix: str) -> str | None:
    if prefix.startswith("/"):
        return "a prefix does not begin with a slash"
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) <= 0xDFFF for char in prefix):
        return "a prefix has no control characters"
    if len(prefix.encode()) > 400:
        return "a prefix has at most 400 bytes in UTF-8"
    return None


def _is_url(value: Any) -> bool:
    try:
        urlsplit(value).port  # noqa: B018  it is checked when it is asked for
    except (ValueError, TypeError, AttributeError):
        return False
    return isinstance(value, str)
