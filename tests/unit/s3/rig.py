"""Stores of the S3 backend on the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from specstar.backends.provider import BackendContext
from specstar.backends.s3 import S3Options, S3Provider
from specstar.backends.s3.blob_store import S3BlobStore
from specstar.backends.s3.connection import S3Connection
from specstar.backends.s3.meta_store import S3MetaStore
from specstar.backends.s3.resource_store import S3ResourceStore
from specstar.roles import ModelSpec
from specstar.runtime import LazyConnection
from specstar.runtime.home import AsyncioHome
from tests.conformance.samples import model

__all__ = ["Rig", "opened", "options_for", "until"]

PROVIDER = S3Provider()


class Rig:
    """One process's view: a connection of its own, and stores on it."""

    def __init__(self, options: S3Options) -> None:
        self.options = options
        self.home = AsyncioHome(asyncio.get_running_loop())
        self.lazy: LazyConnection[S3Connection] = LazyConnection(lambda: PROVIDER.connect(options), "s3")
        self.context = BackendContext(self.home, options, self.lazy)

    def meta(self, spec: ModelSpec | None = None) -> S3MetaStore:
        store = PROVIDER.meta_store(self.context, spec or model())
        assert isinstance(store, S3MetaStore)
        return store

    def resource(self, spec: ModelSpec | None = None) -> S3ResourceStore:
        store = PROVIDER.resource_store(self.context, spec or model())
        assert isinstance(store, S3ResourceStore)
        return store

    def blob(self) -> S3BlobStore:
        store = PROVIDER.blob_store(self.context)
        assert isinstance(store, S3BlobStore)
        return store

    async def aclose(self) -> None:
        self.home.closing = True
        await self.lazy.aclose(10)
        await self.home.cancel_tasks(5)


def options_for(endpoint_url: str, **more: Any) -> S3Options:
    """Options for a server that takes any key, with short limits."""
    given = {
        "bucket": "bucket",
        "access_key_id": "key",
        "secret_access_key": "secret",
        "operation_timeout_seconds": 5.0,
        "read_timeout_seconds": 2.0,
        "connect_timeout_seconds": 1.0,
        **more,
    }
    return msgspec.convert({"endpoint_url": endpoint_url, **given}, S3Options)


async def until(condition: Callable[[], bool | Awaitable[bool]], *, seconds: float = 5.0) -> None:
    """Wait for what another process or task brings about. Raises `TimeoutError`."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if found if isinstance(found, bool) else await found:
                return
            await asyncio.sleep(0.01)


@asynccontextmanager
async def opened(options: S3Options) -> AsyncIterator[Rig]:
    """A rig, closed afterwards."""
    rig = Rig(options)
    try:
        yield rig
    finally:
        await rig.aclose()
