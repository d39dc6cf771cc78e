"""Making the driver's client: what of it reads files happens in a thread, what of it retries is switched off."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from specstar.backends.s3.http_session import http_session_class
from specstar.backends.s3.options import S3Options
from specstar.backends.s3.shortcuts import read_data_once, read_times_quickly, resolve_endpoints_once
from specstar.backends.tls import tls_reason
from specstar.errors import ConfigError, MissingDependencyError

__all__ = ["client_arguments", "drop_sockets", "make_client"]

# S3 closes idle connections after about 20 s, some servers after 15 s.
_KEEPALIVE_SECONDS = 12


async def make_client(options: S3Options) -> Any:
    """A client, to be entered on the event loop that uses it.

    Raises `MissingDependencyError`, `ConfigError` for client arguments that the driver refuses, and driver errors.
    """
    return await asyncio.to_thread(_make, options)


def _make(options: S3Options) -> Any:
    """In a thread: import the driver, read its data files, credential files and profiles, and make the client of them."""
    try:
        from aiobotocore.session import AioSession
    except ImportError as error:
        raise MissingDependencyError("aioboto3", extra="s3") from error
    session = AioSession()
    arguments = client_arguments(options)
    read_data_once(session)
    read_times_quickly(session)
    resolve_endpoints_once(session, arguments.get("api_version"))

    async def create_and_leave() -> Any:
        # Nothing of it belongs to a loop before its first request: it is entered anew on the one that uses it.
        async with session.create_client("s3", **arguments) as made:
            client: Any = made
            try:
                await client._endpoint.http_session.load_certificates()
            except OSError as error:
                raise ConfigError(
                    f"the certificates of the S3 client cannot be read ({tls_reason(error)}): client_kwargs.verify, the variable "
                    "AWS_CA_BUNDLE and client_kwargs.config.client_cert take files in PEM"
                ) from error
            return client

    return asyncio.run(create_and_leave())


def client_arguments(options: S3Options) -> dict[str, Any]:
    """What the driver's client is created with."""
    given = dict(options.client_kwargs)
    config = client_config(options, given.pop("config", None))
    arguments: dict[str, Any] = {"region_name": options.region_name, "config": config}
    if options.endpoint_url is not None:
        arguments["endpoint_url"] = options.endpoint_url
        if urlsplit(options.endpoint_url).scheme == "http":
            # Saves reading the CA files for a handshake that never happens.
            arguments["verify"] = False
    if options.access_key_id is not None:
        arguments["aws_access_key_id"] = options.access_key_id
        arguments["aws_secret_access_key"] = options.secret_access_key
    verify = given.get("verify")
    if isinstance(verify, str | os.PathLike) and not Path(verify).exists():
        raise ConfigError(f"client_kwargs.verify: there are no CA certificates at {os.fspath(verify)!r}")
    return {**arguments, **given}


def client_config(options: S3Options, given: Any) -> Any:
    """The driver's Config: ours, then the user's, then what the retry layer needs."""
    import aiobotocore
    from aiobotocore.config import AioConfig
    from botocore.config import Config

    style = options.addressing_style
    if style == "auto" and options.endpoint_url is not None:
        style = "path"
    settings: dict[str, Any] = {
        "signature_version": "s3v4",
        "connect_timeout": options.connect_timeout_seconds,
        "read_timeout": options.read_timeout_seconds,
        "max_pool_connections": options.max_pool_connections,
        "s3": {"addressing_style": style},
        # A fixed one: the driver builds its own anew for every request, a tenth of its work.
        "user_agent": f"specstar aiobotocore/{aiobotocore.__version__}",
        "connector_args": {"keepalive_timeout": _KEEPALIVE_SECONDS},
        "http_session_cls": http_session_class(),
    }
    if options.endpoint_url is not None:
        # Many servers do not know the checksums that newer drivers send by default (boto/botocore#3277).
        settings["request_checksum_calculation"] = "when_required"
        settings["response_checksum_validation"] = "when_required"
    if isinstance(given, Config):
        user = dict(getattr(given, "_user_provided_options", {}))
    elif given is None or isinstance(given, dict):
        user = dict(given or {})
    else:
        raise ConfigError(
            "client_kwargs.config: a mapping of botocore Config options, or a botocore Config, is expected"
        )
    user_s3 = user.pop("s3", None)
    settings.update(user)
    if user_s3:
        settings["s3"] = {"addressing_style": style, **user_s3}
    # One retry layer: ours. With the driver's on top, a conditional write could fail on its own success.
    settings["retries"] = {"mode": "standard", "total_max_attempts": 1}
    try:
        return AioConfig(**settings)
    except Exception as error:
        # Its text may quote a value.
        names = ", ".join(sorted(map(str, user))) or "s3"
        failure = type(error).__name__
    raise ConfigError(
        f"client_kwargs.config: botocore refuses a name or a value ({failure}); given are {names}: see botocore's Config"
    )


def drop_sockets(client: Any, *, on_their_loop: bool) -> None:
    """Close the client's sockets without a goodbye; elsewhere than on their loop, without touching that loop.

    In a forked child the selector is shared with the parent: unregistering there would deafen the parent. On a loop that
    goes on, a socket closed behind its back would deafen the next one of the same number.
    """
    close = _abort if on_their_loop else _close_socket
    with contextlib.suppress(Exception):
        http = client._endpoint.http_session
        for session in list(getattr(http, "_sessions", {}).values()):
            connector = session.connector
            session.detach()
            if connector is None:
                continue
            for connections in list(connector._conns.values()):
                for protocol, *_ in connections:
                    close(protocol.transport)
            for protocol in list(connector._acquired):
                close(protocol.transport)
            connector._conns.clear()
            connector._acquired.clear()
            connector._closed = True


def _abort(transport: Any) -> None:
    if transport is not None:
        transport.abort()


def _close_socket(transport: Any) -> None:
    with contextlib.suppress(Exception):
        raw = getattr(transport, "_sock", None)
        if raw is not None:
            raw.close()
            transport._sock = None
