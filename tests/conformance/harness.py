"""Stores of one case, called as public calls are: from the test's own event loop, which crosses to the home loop where that
is another, or by threads that block, as those of the sync facade do."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar, cast

import anyio.to_thread

from specstar.backends.provider import BackendContext
from specstar.resource_manager.composed import ComposedStorage
from specstar.roles import BlobReader, BlobStore, BlobWriter, MetaStore, ModelSpec, ResourceStore, Storage
from specstar.runtime import Gate
from specstar.runtime.blocking import run_here
from tests.conformance.cases import Case

__all__ = ["Bench"]

S = TypeVar("S")
Run = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
# What a portable storage lets run on any loop and in any thread.
_PORTABLE = {"write", "read", "read_meta"}


class Bench:
    """Builds stores of a case; `reopen` closes all connections, as the end of a process would.

    `blocking`: the home is a loop in a thread of its own, and each call blocks another thread.
    """

    def __init__(self, case: Case, *, blocking: bool = False) -> None:
        self.case = case
        self.gate = Gate()
        self._run = self._block if blocking else self.gate.run
        self._run_portable = _in_a_thread if blocking else _here
        self.gate.renew(native=self._native())

    def _native(self) -> bool:
        parts = [self.case, self.case.resource] if self.case.resource else [self.case]
        return all(part.provider.native for part in parts)

    def _context(self, case: Case) -> BackendContext[Any, Any]:
        provider, options = case.provider, case.options
        key = (provider.type, provider.connection_key(options))
        connection = self.gate.connections.share(key, lambda: provider.connect(options), provider.type)
        return BackendContext(home=self.gate.settle(), options=options, connection=connection)

    async def _build(self, make: Callable[[], S]) -> S:
        async def build() -> S:
            return make()

        store = await self._run(build)
        portable = isinstance(store, Storage) and store.portable
        return cast("S", _Crossing(self._run, store, self._run_portable if portable else None))

    async def _block(self, function: Callable[[], Awaitable[Any]]) -> Any:
        return await anyio.to_thread.run_sync(self.gate.call, function)

    async def meta(self, model: ModelSpec) -> MetaStore:
        """A meta store."""
        return await self._build(lambda: self.case.provider.meta_store(self._context(self.case), model))

    async def resource(self, model: ModelSpec) -> ResourceStore:
        """A resource store."""
        return await self._build(lambda: self.case.provider.resource_store(self._context(self.case), model))

    async def blob(self) -> BlobStore:
        """A blob store."""
        return await self._build(lambda: self.case.provider.blob_store(self._context(self.case)))

    async def storage(self, model: ModelSpec) -> Storage:
        """Both roles together: combined, if the backend can; else composed."""

        def make() -> Storage:
            meta, other = self._context(self.case), self.case.resource or self.case
            resource = self._context(other)
            if meta.connection is resource.connection:
                combined = self.case.provider.combined_storage(meta, resource, model)
                if combined is not None:
                    return combined
            rows, payloads = self.case.provider.meta_store(meta, model), other.provider.resource_store(resource, model)
            return ComposedStorage(rows, payloads, model=model.name)

        return await self._build(make)

    async def reopen(self) -> None:
        """Close everything; stores built from now on open anew."""
        await self.gate.aclose()
        self.gate.renew(native=self._native())

    async def aclose(self) -> None:
        """Close everything."""
        await self.gate.aclose()


class _Crossing:
    """Any object with coroutine methods, driven through a gate. Readers and writers that it returns cross too."""

    def __init__(self, run: Run, target: Any, run_portable: Run | None = None) -> None:
        self._run = run
        self._run_portable = run_portable
        self._target = target

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if inspect.isasyncgenfunction(value):
            return functools.partial(self._iterate, value)
        if not inspect.iscoroutinefunction(value):
            return value
        return functools.partial(self._call, value)

    async def _call(self, method: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        portable = self._run_portable if method.__name__ in _PORTABLE else None
        run = portable or self._run
        result = await run(functools.partial(method, *args, **kwargs))
        return _Crossing(self._run, result) if isinstance(result, BlobReader | BlobWriter) else result

    async def _iterate(
        self, method: Callable[..., AsyncIterator[Any]], *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        pages = method(*args, **kwargs)
        while True:
            try:
                yield await self._run(functools.partial(_next_page, pages))
            except StopAsyncIteration:
                return


async def _here(function: Callable[[], Awaitable[Any]]) -> Any:
    return await function()


async def _in_a_thread(function: Callable[[], Awaitable[Any]]) -> Any:
    return await anyio.to_thread.run_sync(lambda: run_here(function()))


async def _next_page(pages: AsyncIterator[Any]) -> Any:
    return await anext(pages)
