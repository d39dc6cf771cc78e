"""What is read from the driver's answers: headers, versions, the server's clock, and bodies."""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any

__all__ = ["bare_etag", "headers_of", "pieces_of", "server_time"]

_PIECE = 1 << 20


def bare_etag(etag: str) -> str:
    """An ETag without its quotes: some servers compare `If-Match` literally."""
    return etag.removeprefix("W/").strip('"')


def headers_of(answer: dict[str, Any]) -> dict[str, str]:
    """The HTTP headers of an answer, names in lower case."""
    headers: dict[str, str] = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return headers


def server_time(answer: dict[str, Any]) -> float:
    """The server's clock as it answered, in seconds since the epoch: file times are compared with it, not with ours."""
    date = headers_of(answer).get("date")
    return parsedate_to_datetime(date).timestamp() if date else time.time()


async def pieces_of(stream: Any, progress: Callable[[], None]) -> list[bytes]:
    """A body as it came: putting it together and taking it apart again would copy it twice. `progress` hears of each piece."""
    from aiobotocore.response import StreamingBody

    found: list[bytes] = []
    # The driver's way puts the pieces together that have come; a body with a checksum of the driver's must go that way.
    if type(stream) is StreamingBody:
        async for piece, _ in stream.content.iter_chunks():
            if piece:
                found.append(piece)
                progress()
        return found
    while piece := await stream.read(_PIECE):
        found.append(piece)
        progress()
    return found
