"""Connecting to PostgreSQL, cancelled in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from asyncio import events
from collections.abc import Iterator
from typing import Any

__all__ = ["cancelled_negotiations_ignored"]


@contextlib.contextmanager
def cancelled_negotiations_ignored() -> Iterator[None]:
    """asyncpg leaves a future with this error behind when the negotiation of TLS is cancelled; its socket is closed."""
    if events._get_running_loop() is None:
        yield
        return
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler() or (lambda loop, context: loop.default_exception_handler(context))

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if str(context.get("exception")) != "unexpected connection_lost() call":
            before(loop, context)

    loop.set_exception_handler(handle)
    try:
        yield
        gc.collect()
    finally:
        loop.set_exception_handler(before)
