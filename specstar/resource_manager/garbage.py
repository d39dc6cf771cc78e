"""Payloads that nothing points to: what killed writers left, and what a rewritten draft leaves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta

from specstar.errors import SpecstarError
from specstar.roles import PayloadKey, Storage
from specstar.runtime import left_in_order

__all__ = ["collect", "drop_replaced"]

logger: logging.Logger = logging.getLogger("specstar")
_PAGE = 500


async def collect(storage: Storage, *, older_than_seconds: float) -> int:
    """Remove unfinished files and payloads without an owner; how many."""
    # By the clock that dates payloads: that of this host may be ahead, and the time of `using` is what writes record.
    limit = await storage.clock() - timedelta(seconds=older_than_seconds)
    removed = await storage.sweep(older_than_seconds=older_than_seconds)
    async with left_in_order(storage.list_payloads()) as pages:
        async for page in pages:
            old = [entry.key for entry in page if entry.modified_time <= limit]
            for start in range(0, len(old), _PAGE):
                garbage = await storage.unreferenced(old[start : start + _PAGE])
                if garbage:
                    await storage.drop_payloads(garbage)
                    removed += len(garbage)
    return removed


async def drop_replaced(storage: Storage, keys: Sequence[PayloadKey], *, model: str) -> None:
    """Erase payloads that a rewritten draft has left; if that fails, `collect` finds them."""
    if storage.deferred:
        return  # what is durable still points to them
    try:
        await storage.drop_payloads(keys)
    except SpecstarError as error:
        logger.info("%s: %d replaced payloads stay until garbage collection: %s", model, len(keys), error)
