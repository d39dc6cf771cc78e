"""Copying what a program keeps into other backends: the resources of its models and its blobs as they are, and compared."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

import anyio
from msgspec import Struct
from msgspec.structs import replace

from specstar.config import ConfigSource, ResolvedBackend, resolve_config
from specstar.copying_resource import NotCopied, copy_resource
from specstar.errors import BackendError, BlobNotFoundError, ConfigError, SpecstarError, UsageError
from specstar.query import build_query, cursor_of
from specstar.resource_manager.factories import BoundStorageFactory, StorageFactory
from specstar.resource_manager.manager import ResourceManager
from specstar.roles import BlobInfo, BlobStore, ResourceMeta, Storage
from specstar.runtime import Gate, clean_up, left_in_order

__all__ = ["CopyReport", "ModelCopy", "Target", "Tell", "copies_of", "copy_all", "refuse_itself", "target_of"]

T = TypeVar("T")
_PAGE = 200
# At once: each holds a payload, or some chunks of a blob.
_RESOURCES, _BLOBS = 32, 4
_BIG_AT_ONCE = 2
_MOST_PROBLEMS = 100
_CLEANUP_SECONDS = 30.0


class CopyReport(Struct, frozen=True, kw_only=True):
    """What became of the resources of one model, or of the `blobs`: `copied` now, or there and equal already (`unchanged`).

    `failed` were not copied, or are not equal; `problems` says why, of the first hundred.
    """

    name: str
    copied: int = 0
    unchanged: int = 0
    failed: int = 0
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True if all that was found is in the target."""
        return not self.failed


Tell = Callable[[CopyReport], None]
"""Hears of each page: the report so far."""


Target: TypeAlias = "ConfigSource | StorageFactory"
"""What is copied to."""


class ModelCopy(NamedTuple):
    """A model, and where it is copied to; None if nobody has said that."""

    manager: ResourceManager[Any]
    target: StorageFactory | None


def copies_of(
    managers: Mapping[str, ResourceManager[Any]],
    own: Collection[str],
    target: StorageFactory,
    models: Mapping[str, Target | None],
) -> list[ModelCopy]:
    """Where each model goes: by `models`, whose None leaves one out, or to `target`, where it has no storage of its `own`."""
    copies = []
    for name, manager in managers.items():
        if name not in models:
            copies.append(ModelCopy(manager, None if name in own else target))
        elif (given := models[name]) is not None:
            copies.append(ModelCopy(manager, target_of(given)))
    return copies


def target_of(backend: Target) -> StorageFactory:
    """The factory of what is copied to; the queue of a configuration is left out. Raises `ConfigError`."""
    if isinstance(backend, StorageFactory):
        factory = backend
    else:
        resolved = resolve_config(backend)
        factory = BoundStorageFactory.of(resolved)
    if not factory.durable:
        raise ConfigError(
            "a copy in memory would be gone with this process: bind meta and resource to something durable"
        )
    return factory


def refuse_itself(source: StorageFactory, target: StorageFactory) -> None:
    """Raises `UsageError` if the target is where the program is already: all would be there, and nothing be copied."""
    if all(_same(source.bindings.get(role), bound) for role, bound in target.bindings.items()):
        raise UsageError(
            "the target is where this program keeps its data already, so nothing would be copied: "
            "give the program the configuration to copy from, and copy_to (specstar copy) the other one"
        )


def _same(one: ResolvedBackend | None, other: ResolvedBackend) -> bool:
    return one is not None and one.type == other.type and bool(one.pinned == other.pinned)


async def copy_all(
    gate: Gate, copies: Sequence[ModelCopy], source: StorageFactory | None, target: StorageFactory, tell: Tell
) -> list[CopyReport]:
    """Copy the resources of these models, then the blobs of `source`, on the home loop."""
    reports = []
    for manager, goes_to in copies:
        slot = manager._slot
        if goes_to is None:
            reports.append(await _resources_left(manager.name, slot.storage))
        else:
            reports.append(await _copy_resources(manager.name, slot.storage, goes_to.storage(gate, slot.model), tell))
    blob = target.bindings.get("blob")
    if source is not None and "blob" in source.bindings:
        if blob is not None and blob.provider.durable:
            reports.append(await _copy_blobs(source.blob_store(gate), target.blob_store(gate), tell))
        else:
            reports.append(await _blobs_left(source.blob_store(gate)))
    return reports


async def _resources_left(name: str, source: Storage) -> CopyReport:
    """Of a model with a storage of its own, which is not a part of what the target replaces."""
    count = await source.count(include_deleted=True)
    why = "the model has a storage of its own; say by models= (--model, --stays) where they go, or that they stay"
    problems = (f"{count} resources are not copied: {why}",) if count else ()
    return CopyReport(name=name, failed=count, problems=problems)


async def _blobs_left(source: BlobStore) -> CopyReport:
    """Of a target without a place for blobs: those that would be lost."""
    count = 0
    async with left_in_order(source.list()) as pages:
        async for page in pages:
            count += len(page)
    problems = (f"{count} blobs are not copied: the target binds blob to nothing durable",) if count else ()
    return CopyReport(name="blobs", failed=count, problems=problems)


async def _copy_resources(name: str, source: Storage, target: Storage, tell: Tell) -> CopyReport:
    """Copy all resources of a model, deleted ones too, with all revisions, page by page; `tell` hears of each page.

    A resource is visible in the target once it is whole. Raises `BackendError` if a backend fails as such.
    """

    async def pages() -> AsyncIterator[Sequence[ResourceMeta]]:
        query = build_query(limit=_PAGE, include_deleted=True)
        while rows := await source.search_meta(query):
            yield rows
            query = replace(query, after=cursor_of(query, rows[-1]))

    big = anyio.Semaphore(_BIG_AT_ONCE)

    async def copy(meta: ResourceMeta) -> bool | None:
        return await copy_resource(meta, source, target, big)

    report = await _copy_each(name, pages(), copy, lambda meta: meta.resource_id, most=_RESOURCES, tell=tell)
    await target.sync()
    return report


async def _copy_blobs(source: BlobStore, target: BlobStore, tell: Tell) -> CopyReport:
    """Copy all blobs. Their ids are the hashes of their bytes, so that what was stored under one is right."""

    async def copy(blob: BlobInfo) -> bool | None:
        return await _copy_blob(blob, source, target)

    return await _copy_each("blobs", source.list(), copy, lambda blob: blob.file_id, most=_BLOBS, tell=tell)


async def _copy_each(
    name: str,
    pages: AsyncIterator[Sequence[T]],
    copy: Callable[[T], Awaitable[bool | None]],
    id_of: Callable[[T], str],
    *,
    most: int,
    tell: Tell,
) -> CopyReport:
    """`copy` gives True for what was copied, False for what was there, None for what is gone from the source."""
    report = CopyReport(name=name)
    failure: list[BackendError] = []
    limiter = anyio.Semaphore(most)

    async def one(item: T, scope: anyio.CancelScope) -> None:
        nonlocal report
        async with limiter:
            try:
                copied = await copy(item)
            except BackendError as error:
                failure.append(error)
                scope.cancel()
            except (SpecstarError, NotCopied) as error:
                report = _with_problem(report, f"{id_of(item)!r}: {error}")
            else:
                if copied is not None:
                    report = _counted(report, copied=copied)

    async with left_in_order(pages) as each:
        async for page in each:
            async with anyio.create_task_group() as group:
                for item in page:
                    group.start_soon(one, item, group.cancel_scope)
            if failure:
                raise failure[0]
            tell(report)
    return report


def _counted(report: CopyReport, *, copied: bool) -> CopyReport:
    return replace(report, copied=report.copied + copied, unchanged=report.unchanged + (not copied))


def _with_problem(report: CopyReport, problem: str) -> CopyReport:
    problems = report.problems if len(report.problems) >= _MOST_PROBLEMS else (*report.problems, problem)
    return replace(report, failed=report.failed + 1, problems=problems)


async def _copy_blob(blob: BlobInfo, source: BlobStore, target: BlobStore) -> bool:
    known = await _stat(blob.file_id, target)
    if known is not None and known.size == blob.size:
        return False
    reader = await source.open(blob.file_id)
    try:
        writer = await target.create(content_type=blob.content_type, size_hint=blob.size)
        try:
            while chunk := await reader.read():
                await writer.write(chunk)
            stored = await writer.commit()
        finally:
            await clean_up(writer.abort, seconds=_CLEANUP_SECONDS)
    finally:
        await clean_up(reader.aclose, seconds=_CLEANUP_SECONDS)
    if stored.file_id != blob.file_id:
        raise NotCopied(f"its bytes have another hash, {stored.file_id}: it is damaged in the source")
    return True


async def _stat(file_id: str, store: BlobStore) -> BlobInfo | None:
    try:
        return await store.stat(file_id)
    except BlobNotFoundError:
        return None
