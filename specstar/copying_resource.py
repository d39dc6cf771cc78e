"""Copying one resource: its row, its revisions and their payloads as they are, read back and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio
import xxhash
from msgspec.structs import replace

from specstar.errors import DecodeError
from specstar.roles import MetaWrite, ResourceMeta, RevisionInfo, Storage, StoredRevision
from specstar.roles.storage import StorageWrite

__all__ = ["NotCopied", "copy_resource"]

_BIG = 1 << 20
_CHANGES = 5


class NotCopied(Exception):
    """Why one thing is not copied, or not equal."""


class _Changed(Exception):
    """The source is not any more what was read of it before."""


async def copy_resource(row: ResourceMeta, source: Storage, target: Storage, big: anyio.Semaphore) -> bool | None:
    """True if it was copied, False if it was there and is equal, None if it is gone from the source.

    `row` is what a search has found. Raises `NotCopied`, and what storages raise.
    """
    for _ in range(_CHANGES):
        revisions = await source.list_revisions(row.resource_id)
        try:
            if max((revision.size for revision in revisions), default=0) <= _BIG:
                return await _copy_revisions(row, revisions, source, target)
            async with big:
                return await _copy_revisions(row, revisions, source, target)
        except _Changed:
            again = await source.read_meta(row.resource_id)
            if again is None:
                return None
            row = again
    raise NotCopied("it is changed all the time: stop what writes to it")


async def _copy_revisions(
    row: ResourceMeta, revisions: Sequence[RevisionInfo], source: Storage, target: Storage
) -> bool:
    known = await target.read_meta(row.resource_id)
    written: dict[str, bytes] = {}
    if known != row:
        if known is not None:
            await _make_room(known, row, revisions, target)
        written = await _write(row, revisions, source, target)
    await _compare(row, revisions, written, source, target)
    return known != row


async def _make_room(
    known: ResourceMeta, row: ResourceMeta, revisions: Sequence[RevisionInfo], target: Storage
) -> None:
    """Erase what an earlier copy, of an earlier state or not finished, has left. Never anything that the source lacks."""
    there = await target.list_revisions(known.resource_id)
    ours = {revision.revision_id for revision in revisions}
    if known.version >= row.version or any(revision.revision_id not in ours for revision in there):
        raise NotCopied("the target has another resource of this id, or has changed it since it was copied")
    await target.erase(known.resource_id, expected_version=known.version)


async def _write(
    row: ResourceMeta, revisions: Sequence[RevisionInfo], source: Storage, target: Storage
) -> dict[str, bytes]:
    """Revision by revision, the current one last: until then the resource is a deleted one. Returns the payloads' hashes."""
    ordered = sorted(revisions, key=lambda revision: revision.revision_id == row.current_revision_id)
    if not ordered or ordered[-1].revision_id != row.current_revision_id:
        if await source.read_meta(row.resource_id) != row:
            raise _Changed
        raise NotCopied(f"its current revision {row.current_revision_id} is gone from the source")
    written: dict[str, bytes] = {}
    left = len(ordered) - 1
    before: int | None = None
    for number, revision in enumerate(ordered):
        now = row
        if number < left:
            now = replace(
                row,
                version=row.version - (left - number),
                current_revision_id=revision.revision_id,
                revision_count=number + 1,
                is_deleted=True,
                indexed_data={},
            )
        payload = await _payload(row, revision, source)
        await target.write(StorageWrite(MetaWrite(now, revision, before), payload))
        written[revision.revision_id] = _hash(payload)
        before = now.version
    return written


async def _compare(
    row: ResourceMeta,
    revisions: Sequence[RevisionInfo],
    written: Mapping[str, bytes],
    source: Storage,
    target: Storage,
) -> None:
    """Read all of it back. `written` are the hashes of payloads that have just come from the source; others are read there."""
    if await target.list_revisions(row.resource_id) != revisions:
        raise NotCopied("the revisions in the target are not equal")
    for revision in revisions:
        expected = written.get(revision.revision_id) or _hash(await _payload(row, revision, source))
        found = await target.read(revision.resource_id, revision.revision_id)
        if not isinstance(found, StoredRevision):
            raise NotCopied(f"revision {revision.revision_id} is gone from the target")
        if found.meta != row:
            raise NotCopied("the row in the target is not equal: something else writes there")
        if _hash(found.payload) != expected:
            raise NotCopied(f"the payload of revision {revision.revision_id} in the target is not equal")


async def _payload(row: ResourceMeta, revision: RevisionInfo, source: Storage) -> bytes:
    """The payload that this very record points to, while the row is the same: so that all of it is of one moment.

    Raises `_Changed` if a draft was rewritten, or the resource changed or erased; `DecodeError` if it is lost or damaged.
    """
    try:
        found = await source.read(revision.resource_id, revision.revision_id)
    except DecodeError:
        if await _is_there(row, revision, source):
            raise
        raise _Changed from None
    if isinstance(found, StoredRevision) and found.meta == row and found.revision == revision:
        return bytes(found.payload)
    if await _is_there(row, revision, source):
        raise NotCopied(f"revision {revision.revision_id} is listed in the source and not found there")
    raise _Changed


async def _is_there(row: ResourceMeta, revision: RevisionInfo, source: Storage) -> bool:
    return await source.read_revision(revision.resource_id, revision.revision_id) == (row, revision)


def _hash(payload: bytes) -> bytes:
    return xxhash.xxh3_128_digest(payload)
