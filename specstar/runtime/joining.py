"""Pieces of bytes as one."""

from __future__ import annotations

from collections.abc import Sequence

from specstar.runtime.threads import run_in_thread

__all__ = ["joined"]

# A thread costs less than what it would take the event loop from here on.
_IN_THREAD = 1 << 20


async def joined(pieces: Sequence[bytes]) -> bytes:
    """All pieces in one; in a thread, if they are large."""
    if len(pieces) == 1:
        return pieces[0]
    if sum(map(len, pieces)) < _IN_THREAD:
        return b"".join(pieces)
    return await run_in_thread(b"".join, pieces)
