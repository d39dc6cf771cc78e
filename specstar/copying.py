"""Copying what a program keeps into other backends: rows, revisions, payloads and blobs as they are, compared afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import anyio
from msgspec import Struct
from msgspec.structs import replace

from specstar.config import ConfigSource, resolve_config
from specstar.errors import BackendError, BlobNotFoundError, ConfigError, SpecstarError
from specstar.query import build_query, cursor_of
from specstar.resource_manager.factories import BoundStorageFactory, StorageFactory
from specstar.resource_manager.manager import ResourceManager
from specstar.roles import BlobInfo, BlobStore, MetaWrite, ResourceMeta, RevisionInfo, Storage, StoredRevision
from specstar.roles.storage import StorageWrite
from specstar.runtime import Gate, clean_up, left_in_order

__all__ = ["CopyReport", "Tell", "copy_all", "target_of"]

T = TypeVar("T")
_PAGE = 200
# At once: each holds a payload twice, to compare it, or some chunks of a blob.
_RESOURCES, _BLOBS = 32, 4
_BIG, _BIG_AT_ONCE = 1 << 20, 2
_MOST_PROBLEMS = 100
_CHANGES = 5
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


class _Refused(Exception):
    """Why one thing is not copied, or not equal."""


def target_of(backend: ConfigSource | StorageFactory) -> StorageFactory:
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


async def copy_all(
    gate: Gate, managers: Sequence[ResourceManager[Any]], source: StorageFactory, target: StorageFactory, tell: Tell
) -> list[CopyReport]:
    """Copy the resources of these models, then the blobs, on the home loop."""
    reports = []
    for manager in managers:
        copy = target.storage(gate, manager._slot.model)
        reports.append(await _copy_resources(manager.name, manager._slot.storage, copy, tell))
    blob = target.bindings.get("blob")
    if "blob" in source.bindings:
        if blob is not None and blob.provider.durable:
            reports.append(await _copy_blobs(source.blob_store(gate), target.blob_store(gate), tell))
        else:
            reports.append(await _blobs_left(source.blob_store(gate)))
    return reports


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
        return await _copy_resource(meta.resource_id, source, target, big)

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
            except (SpecstarError, _Refused) as error:
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


async def _copy_resource(resource_id: str, source: Storage, target: Storage, big: anyio.Semaphore) -> bool | None:
    found = await _whole(resource_id, source)
    if found is None:
        return None
    meta, revisions = found
    if max((revision.size for revision in revisions), default=0) <= _BIG:
        return await _copy_revisions(meta, revisions, source, target)
    async with big:
        return await _copy_revisions(meta, revisions, source, target)


async def _copy_revisions(
    meta: ResourceMeta, revisions: Sequence[RevisionInfo], source: Storage, target: Storage
) -> bool:
    known = await target.read_meta(meta.resource_id)
    if known != meta:
        if known is not None:
            await _make_room(known, meta, revisions, target)
        await _write(meta, revisions, source, target)
    await _compare(meta, revisions, source, target)
    return known != meta


async def _whole(resource_id: str, source: Storage) -> tuple[ResourceMeta, list[RevisionInfo]] | None:
    """The row and all revisions, oldest first, as they are at one moment; None if it was erased meanwhile."""
    for _ in range(_CHANGES):
        meta = await source.read_meta(resource_id)
        if meta is None:
            return None
        revisions = await source.list_revisions(resource_id)
        again = await source.read_meta(resource_id)
        if again == meta:
            return meta, revisions
    raise _Refused("it is changed all the time: stop what writes to it")


async def _make_room(
    known: ResourceMeta, meta: ResourceMeta, revisions: Sequence[RevisionInfo], target: Storage
) -> None:
    """Erase what an earlier copy, of an earlier state or not finished, has left. Never anything that the source lacks."""
    there = await target.list_revisions(known.resource_id)
    ours = {revision.revision_id for revision in revisions}
    if known.version >= meta.version or any(revision.revision_id not in ours for revision in there):
        raise _Refused("the target has another resource of this id, or has changed it since it was copied")
    await target.erase(known.resource_id, expected_version=known.version)


async def _write(meta: ResourceMeta, revisions: Sequence[RevisionInfo], source: Storage, target: Storage) -> None:
    """Revision by revision, the current one last: until then the resource is a deleted one."""
    ordered = sorted(revisions, key=lambda revision: revision.revision_id == meta.current_revision_id)
    if not ordered or ordered[-1].revision_id != meta.current_revision_id:
        raise _Refused(f"its current revision {meta.current_revision_id} is gone from the source")
    left = len(ordered) - 1
    before: int | None = None
    for number, revision in enumerate(ordered):
        row = meta
        if number < left:
            row = replace(
                meta,
                version=meta.version - (left - number),
                current_revision_id=revision.revision_id,
                revision_count=number + 1,
                is_deleted=True,
                indexed_data={},
            )
        payload = await _payload(revision, source)
        await target.write(StorageWrite(MetaWrite(row, revision, before), payload))
        before = row.version


async def _compare(meta: ResourceMeta, revisions: Sequence[RevisionInfo], source: Storage, target: Storage) -> None:
    if await target.read_meta(meta.resource_id) != meta:
        raise _Refused("the row in the target is not equal: something else writes there")
    if await target.list_revisions(meta.resource_id) != revisions:
        raise _Refused("the revisions in the target are not equal")
    for revision in revisions:
        if await _payload(revision, target) != await _payload(revision, source):
            raise _Refused(f"the payload of revision {revision.revision_id} in the target is not equal")


async def _payload(revision: RevisionInfo, storage: Storage) -> bytes:
    """Raises `DecodeError` if it is gone."""
    found = await storage.read(revision.resource_id, revision.revision_id)
    if not isinstance(found, StoredRevision):
        raise _Refused(f"revision {revision.revision_id} is gone")
    return bytes(found.payload)


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
        raise _Refused(f"its bytes have another hash, {stored.file_id}: it is damaged in the source")
    return True


async def _stat(file_id: str, store: BlobStore) -> BlobInfo | None:
    try:
        return await store.stat(file_id)
    except BlobNotFoundError:
        return None
