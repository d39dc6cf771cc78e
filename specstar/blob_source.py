"""What a blob can be made of, as asynchronous chunks on the caller's own loop."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from contextlib import aclosing
from contextvars import ContextVar
from mimetypes import guess_type
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import anyio
from anyio.lowlevel import RunVar

from specstar.errors import InvalidInputError
from specstar.runtime import run_in_thread

__all__ = ["AsyncReader", "BlobSource", "chunks_of", "type_of_name"]

T = TypeVar("T")


class AsyncReader(Protocol):
    """A file that is read asynchronously, such as the `UploadFile` of FastAPI and Starlette."""

    def read(self, size: int, /) -> Awaitable[bytes]: ...


BlobSource = bytes | bytearray | memoryview | Path | IO[bytes] | AsyncReader | Iterable[bytes] | AsyncIterable[bytes]
_CHUNK = 1 << 20
_THREADS = 40
# Of each loop: sources that block must not occupy the threads of the rest of the program. One limiter for each depth.
_limiters: RunVar[list[anyio.CapacityLimiter]] = RunVar("specstar_blob_sources")
# How many sources are being read around this call. Those who wait for an inner one must not hold its thread.
_depth: ContextVar[int] = ContextVar("specstar_blob_source_depth", default=0)
# The type of a compressed file is that of the compression: nobody unpacks it on the way.
_PACKED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
}


def type_of_name(name: str) -> str | None:
    """The content type that a file's name tells, if it tells one."""
    kind, packed = guess_type(name)
    return kind if packed is None else _PACKED.get(packed)


async def chunks_of(source: Any) -> AsyncGenerator[bytes]:
    """Any source as asynchronous chunks. Files and plain iterables may block: they are read in a thread.

    Cancelled, it waits for that thread: nobody else may read the file meanwhile. Raises `InvalidInputError`.
    """
    if isinstance(source, AsyncGenerator):
        # Most are made in the call itself: nobody else could end one that is left half way.
        async with aclosing(source):
            async for chunk in source:
                yield chunk
    elif hasattr(source, "__aiter__"):
        async for chunk in source:
            yield chunk
    elif inspect.iscoroutinefunction(getattr(source, "read", None)):
        while chunk := await source.read(_CHUNK):
            yield chunk
    elif hasattr(source, "read"):
        while (chunk := await _in_thread(functools.partial(source.read, _CHUNK))) or chunk is None:
            if chunk is None:
                raise InvalidInputError("the file is non-blocking and has nothing to read yet", field="source")
            yield chunk
    elif hasattr(source, "__iter__"):
        iterator = iter(source)
        end: Any = object()
        while True:
            chunk = await _in_thread(functools.partial(next, iterator, end))
            if chunk is end:
                return
            yield chunk
    else:
        raise InvalidInputError(f"{type(source).__name__} is no source of bytes")


async def _in_thread(function: Callable[[], T]) -> T:
    depth = _depth.get()

    def deeper() -> T:
        _depth.set(depth + 1)  # in the thread's own copy of the context
        return function()

    return await run_in_thread(deeper, limiter=_limiter_at(depth))


def _limiter_at(depth: int) -> anyio.CapacityLimiter:
    try:
        limiters = _limiters.get()
    except LookupError:
        limiters = []
        _limiters.set(limiters)
    while len(limiters) <= depth:
        limiters.append(anyio.CapacityLimiter(_THREADS))
    return limiters[depth]
