"""The blocking facade seen as if it were asynchronous, so that one suite holds both: each call blocks a thread."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio.to_thread

from specstar import JobMiddleware, SpecStar
from specstar import sync as blocking

__all__ = ["BlockingStar"]


class _Blocking:
    """Wraps a blocking object: its methods become coroutine functions that call it in a thread."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value) or name == "using" or isinstance(value, type):
            return value
        return functools.partial(self._call, value)

    async def _call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await anyio.to_thread.run_sync(functools.partial(function, *args, **kwargs))


class _BlockingManager(_Blocking):
    async def iter(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        iterator = self._inner.iter(*args, **kwargs)
        end = object()
        while (item := await anyio.to_thread.run_sync(next, iterator, end)) is not end:
            yield item


class _BlockingStream:
    def __init__(self, inner: blocking.BlobStream) -> None:
        self._inner = inner

    async def __aenter__(self) -> _BlockingStream:
        await anyio.to_thread.run_sync(self._inner.__enter__)
        return self

    async def __aexit__(self, *details: Any) -> None:
        await anyio.to_thread.run_sync(functools.partial(self._inner.__exit__, *details))

    @property
    def info(self) -> Any:
        return self._inner.info

    def __aiter__(self) -> _BlockingStream:
        return self

    async def __anext__(self) -> bytes:
        chunk = await anyio.to_thread.run_sync(next, self._inner, None)
        if chunk is None:
            raise StopAsyncIteration
        return chunk


class _BlockingBlobs(_Blocking):
    def open(self, *args: Any, **kwargs: Any) -> _BlockingStream:
        return _BlockingStream(self._inner.open(*args, **kwargs))


class _BlockingQueue(_Blocking):
    """A job's queue; its name and handler are those of the queue inside."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner._inner, name) if name.startswith("_") else super().__getattr__(name)


class BlockingStar:
    """A SpecStar used through `specstar.sync`."""

    def __init__(self, star: SpecStar) -> None:
        self._sync = blocking.SpecStar(star)
        self._gate = star._gate
        self._jobs = star._jobs
        self._bound = star._bound
        self.blobs = _BlockingBlobs(self._sync.blobs)

    def add_model(self, *args: Any, **kwargs: Any) -> Any:
        return _BlockingManager(self._sync.add_model(*args, **kwargs))

    def get_resource_manager(self, model: Any) -> Any:
        return _BlockingManager(self._sync.get_resource_manager(model))

    def job(self, *args: Any, **kwargs: Any) -> Any:
        made = self._sync.job(*args, **kwargs)
        if isinstance(made, blocking.JobQueue):
            return _BlockingQueue(made)
        return lambda handler: _BlockingQueue(made(handler))

    def add_job(self, *args: Any, **kwargs: Any) -> Any:
        return _BlockingQueue(self._sync.add_job(*args, **kwargs))

    def add_job_middleware(self, middleware: JobMiddleware) -> None:
        self._sync.add_job_middleware(middleware)

    async def run_workers(self, **kwargs: Any) -> None:
        await anyio.to_thread.run_sync(functools.partial(self._sync.run_workers, **kwargs))

    async def check(self) -> Any:
        return await anyio.to_thread.run_sync(self._sync.check)

    async def aclose(self) -> None:
        await anyio.to_thread.run_sync(self._sync.close)
