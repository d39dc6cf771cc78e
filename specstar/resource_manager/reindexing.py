"""Rows whose projection was made for other indexed fields, brought up to date."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from specstar.errors import DecodeError, QueryError, ResourceNotFoundError, RevisionConflictError, SpecstarError
from specstar.query import build_query, cursor_of
from specstar.resource_manager.writer import Current, Writer
from specstar.roles import MetaWrite, Storage, StoredRevision
from specstar.roles.storage import StorageWrite

__all__ = ["reindex"]

logger: logging.Logger = logging.getLogger("specstar")
_PAGE = 200
# Of one resource: its payload fits the model no longer, or has a value that no backend can index.
_UNINDEXED = (DecodeError, QueryError)


async def reindex(storage: Storage, writer: Writer[Any], projection: Callable[[StoredRevision], dict[str, Any]]) -> int:
    """Project all resources anew, deleted ones too, page by page; returns how many rows changed.

    One that cannot be indexed keeps the row that it has, and is logged.
    """
    everything = build_query(limit=_PAGE, include_deleted=True)
    changed = 0
    while True:
        found = await storage.find(everything)
        stale: list[StorageWrite] = []
        for resource in found.resources:
            try:
                indexed = projection(resource)
            except _UNINDEXED as error:
                _tell(resource.meta.resource_id, error)
                continue
            if indexed != resource.meta.indexed_data:
                stale.append(_with(resource, indexed))
        for item, problem in zip(stale, await storage.write_many(stale) if stale else [], strict=True):
            resource_id = item.change.meta.resource_id
            writer.forget(resource_id)
            if problem is None:
                changed += 1
            elif isinstance(problem, RevisionConflictError | ResourceNotFoundError):
                changed += await _again(storage, writer, resource_id, projection)
            else:
                raise problem
        if found.last is None:
            return changed
        everything = replace(everything, after=cursor_of(everything, found.last))


async def _again(
    storage: Storage, writer: Writer[Any], resource_id: str, projection: Callable[[StoredRevision], dict[str, Any]]
) -> int:
    """One that was changed meanwhile, maybe by a program with the former fields."""
    changed = 0

    async def plan(current: Current) -> StorageWrite | None:
        nonlocal changed
        found = await storage.read(resource_id)
        changed = 0
        if not isinstance(found, StoredRevision):
            raise ResourceNotFoundError(resource_id)
        if found.meta.version != current.meta.version:
            raise RevisionConflictError(resource_id)
        indexed = projection(found)
        changed = indexed != current.meta.indexed_data
        return _with(found, indexed) if changed else None

    try:
        await writer.change(resource_id, plan, deleted=None)
    except (ResourceNotFoundError, RevisionConflictError):
        return 0  # erased, or written again by someone who is faster: by this program, or to be found next time
    except _UNINDEXED as error:
        _tell(resource_id, error)
        return 0
    return int(changed)


def _tell(resource_id: str, error: SpecstarError) -> None:
    logger.warning("resource %r is not indexed anew: %s", resource_id, error)


def _with(resource: StoredRevision, indexed: dict[str, Any]) -> StorageWrite:
    meta = resource.meta
    return StorageWrite(
        MetaWrite(replace(meta, version=meta.version + 1, indexed_data=indexed), None, meta.version), None
    )
