"""A DSN with several hosts: each has its share of the time, so that one that says nothing does not use it all up."""

from __future__ import annotations

import asyncio
import os
import re
from functools import partial
from typing import Any, cast

import asyncpg

from specstar.backends.postgres.dsn import parameters
from specstar.backends.postgres.session import Session
from specstar.runtime.cleanup import clean_up

__all__ = ["connect", "each_host"]

# A TCP connection on a slow network; the caller waits for it, cancelled.
_MOMENT_SECONDS = 0.25
_GIVE_UP_SECONDS = 1.0
_PARTS = re.compile(r"(?P<scheme>[^/]*//)(?P<login>[^/?]*@)?(?P<hosts>[^/?]*)(?P<rest>.*)", re.DOTALL)


def each_host(dsn: str) -> list[str]:
    """One DSN for each of the hosts that stand before the database. Hosts or ports in parameters are left to the driver."""
    parts = _PARTS.fullmatch(dsn)
    hosts = parts["hosts"].split(",") if parts is not None else []
    if parts is None or not all(hosts) or "port" in parameters(dsn) or "," in os.environ.get("PGPORT", ""):
        return [dsn]
    return [f"{parts['scheme']}{parts['login'] or ''}{host}{parts['rest']}" for host in hosts]


async def connect(dsn: str, *, timeout: float, **arguments: Any) -> Session:
    """`asyncpg.connect` to the first host that answers and is what `target_session_attrs` asks for, within `timeout` seconds.

    Raises what the driver raises: of several hosts, the failure of the last one that could not be reached.
    """
    hosts = each_host(dsn)
    if len(hosts) == 1:
        return await _connect_to(dsn, timeout, arguments)
    wanted = parameters(dsn).get("target_session_attrs", os.environ.get("PGTARGETSESSIONATTRS"))
    # The preference concerns all hosts together, which the driver sees one by one here.
    rounds = ["standby", "any"] if wanted == "prefer-standby" else [wanted]
    attempts = [(host, target) for target in rounds for host in hosts]
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    unreached: Exception | None = None
    unfit: Exception | None = None
    for number, (host, target) in enumerate(attempts):
        share = (deadline - loop.time()) / (len(attempts) - number)
        try:
            return await _connect_to(host, share, {**arguments, "target_session_attrs": target})
        except (OSError, asyncpg.CannotConnectNowError) as error:
            unreached = error
        except asyncpg.TargetServerAttributeNotMatched as error:
            unfit = error
    failure = unreached or unfit
    assert failure is not None
    raise failure


async def _connect_to(dsn: str, timeout: float, arguments: dict[str, Any]) -> Session:
    # The driver, cancelled between TCP and TLS, forgets a future with an error, which the event loop then logs.
    opening = asyncio.get_running_loop().create_task(asyncpg.connect(dsn, timeout=timeout, **arguments))
    try:
        await asyncio.wait([opening])
    except asyncio.CancelledError:
        await clean_up(partial(_give_up, opening), seconds=_GIVE_UP_SECONDS)
        raise
    try:
        return cast("Session", opening.result())
    finally:
        del opening  # an error's traceback refers to this frame: drop the cycle


async def _give_up(opening: asyncio.Task[Any]) -> None:
    """Let it come to an end for a moment, then cancel it; a connection that was made is closed."""
    await asyncio.wait([opening], timeout=_MOMENT_SECONDS)
    if not opening.done():
        opening.cancel()
        await asyncio.wait([opening])
    if not opening.cancelled() and opening.exception() is None:
        opening.result().terminate()
