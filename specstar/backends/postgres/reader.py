"""Batched reads: callers who wait at the same time share one statement; large payloads travel alone."""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import Callable, Coroutine, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from specstar.backends.postgres.batching import MANY_AT_ONCE, MAX_IN_FLIGHT, MAX_ROWS, MAX_WHEN_SLOW
from specstar.backends.postgres.rows import (
    full_parts,
    meta_of,
    meta_with_revision,
    revision_of,
)
from specstar.errors import BackendUnavailable, DecodeError, twin_of
from specstar.roles.records import ResourceMeta, RevisionInfo, StoredRevision, unreadable_revision
from specstar.roles.storage import payload_gone
from specstar.runtime import Batcher, for_each
from specstar.runtime.crossing import cross_to

if TYPE_CHECKING:
    from specstar.backends.postgres.connection import Row
    from specstar.backends.postgres.tables import ModelTables

__all__ = ["Lookup", "MetaReader", "Partial", "each_full_of", "each_info_of", "full_of", "largest_payload"]

logger: logging.Logger = logging.getLogger("specstar")

# An answer holds twice what a statement of writes does.
_ANSWER = 2
_SMALL_PAYLOAD = 32 << 10
_READ_ATTEMPTS = 4

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Partial(NamedTuple):
    """A resource whose payload is too large to travel with others."""

    meta: ResourceMeta
    revision: RevisionInfo


class Lookup(Generic[K, R]):
    """Rows by key, one batched statement. `key_of` finds a row's key.

    `arguments` makes the parameters of the statement from the keys and `batch_bytes`.
    `one_sql` is a quicker form for a lone caller; its parameters are the key and the most bytes of a payload.
    """

    def __init__(
        self,
        tables: ModelTables,
        sql: str,
        *,
        what: str,
        arguments: Callable[[list[K], int], tuple[Any, ...]],
        one_sql: str | None = None,
        key_of: Callable[[Row], K],
        decode: Callable[[Row], R],
    ) -> None:
        self._tables = tables
        self._sql = sql
        self._one_sql = one_sql
        self._arguments = arguments
        self._key_of = key_of
        self._decode = decode
        self._batcher: Batcher[K, R | None] = Batcher(
            tables.home,
            self.find,
            name=f"postgres {what} of {tables.model}",
            max_items=MAX_ROWS,
            max_in_flight=MAX_IN_FLIGHT,
            max_when_slow=MAX_WHEN_SLOW,
        )
        self.one: Callable[[K], Coroutine[Any, Any, R | None]] = self._batcher.submit

    async def find(self, keys: list[K], decode: Callable[[Row], R] | None = None) -> list[R | Exception | None]:
        """One entry a key: what was found, None, or the error of a row that does not decode."""
        connection = await self._tables.ready()
        if len(keys) == 1 and self._one_sql is not None:
            rows = await connection.fetch(self._one_sql, keys[0], largest_payload(self._tables.batch_bytes, 1))
        else:
            rows = await connection.fetch(
                self._sql, *self._arguments(list(dict.fromkeys(keys)), self._tables.batch_bytes)
            )
        found: dict[K, R | Exception] = {}
        key_of, decode = self._key_of, decode or self._decode
        damaged = False
        for row in rows:
            try:
                found[key_of(row)] = decode(row)
            except DecodeError as error:
                found[key_of(row)] = error
                damaged = True
        results = [found.get(key) for key in keys]
        # Callers of one key may wait together, and each raises an error of its own.
        return (
            [twin_of(entry) if isinstance(entry, DecodeError) else entry for entry in results] if damaged else results
        )

    async def many(self, keys: Sequence[K], decode: Callable[[Row], R] | None = None) -> list[R | None]:
        """All keys at once, outside the batcher, by a `decode` of their own if it is given. Raises the first `DecodeError`."""

        async def find(start: int) -> list[R | Exception | None]:
            connection = await self._tables.ready()
            async with connection.pool.alone():
                return await self.find(list(keys[start : start + MAX_ROWS]), decode)

        starts = range(0, len(keys), MAX_ROWS)
        pool = (await self._tables.ready()).pool
        results: list[R | None] = []
        for found in await for_each(starts, find, at_once=pool.at_once(len(starts), MANY_AT_ONCE)):
            for entry in found:
                if isinstance(entry, Exception):
                    raise entry
                results.append(entry)
        return results


_id_of: Callable[[Row], str] = operator.itemgetter(0)


def _ids(keys: list[str], _batch_bytes: int) -> tuple[Any, ...]:
    return (keys,)


def _ids_and_limit(keys: list[str], batch_bytes: int) -> tuple[Any, ...]:
    return keys, largest_payload(batch_bytes, len(keys))


def _pairs(keys: list[tuple[str, str]], _batch_bytes: int) -> tuple[Any, ...]:
    return [key[0] for key in keys], [key[1] for key in keys]


def _pairs_and_limit(keys: list[tuple[str, str]], batch_bytes: int) -> tuple[Any, ...]:
    return [key[0] for key in keys], largest_payload(batch_bytes, len(keys)), [key[1] for key in keys]


def largest_payload(batch_bytes: int, rows: int | None) -> int:
    """The bytes up to which a payload travels in an answer of so many rows at most; None: nobody knows how many."""
    answer = _ANSWER * batch_bytes
    small = min(_SMALL_PAYLOAD, answer // MAX_ROWS)
    return max(small, answer // rows) if rows else small


def _pair_of(row: Row) -> tuple[str, str]:
    return row[0], row[len(row) - 1]


def full_of(row: Row) -> StoredRevision | Partial | ResourceMeta:
    """A record of meta, revision, and payload: None if it is large, or gone."""
    meta, revision, payload = full_parts(row)
    if revision is None:
        return meta
    return Partial(meta, revision) if payload is None else StoredRevision(meta, revision, payload)


def each_full_of(row: Row) -> StoredRevision | Partial | ResourceMeta:
    """`full_of` for a row of many: a revision that this version does not understand must not hide the others.

    It is logged, and gets empty bytes, which are no payload: see `Storage.with_payload`.
    """
    try:
        return full_of(row)
    except DecodeError as error:
        unknown = error
    meta = meta_of(row)
    logger.error("%s", unknown)
    return StoredRevision(meta, unreadable_revision(meta), b"")


def each_info_of(row: Row) -> tuple[ResourceMeta, RevisionInfo | None]:
    """`meta_with_revision` for a row of many: a revision that this version does not understand must not hide the others."""
    try:
        return meta_with_revision(row)
    except DecodeError:
        meta = meta_of(row)
        return meta, unreadable_revision(meta)


class MetaReader:
    """Reads rows, revisions and payloads of one model by id."""

    def __init__(self, tables: ModelTables) -> None:
        sql = tables.meta_sql
        self._tables = tables
        self._sql = sql
        self.meta: Lookup[str, ResourceMeta] = Lookup(
            tables, sql.read_meta, what="rows", arguments=_ids, key_of=_id_of, decode=meta_of
        )
        self.info: Lookup[str, tuple[ResourceMeta, RevisionInfo | None]] = Lookup(
            tables, sql.read, what="reads", arguments=_ids, key_of=_id_of, decode=meta_with_revision
        )
        self.full: Lookup[str, StoredRevision | Partial | ResourceMeta] = Lookup(
            tables,
            sql.read_full,
            what="reads",
            arguments=_ids_and_limit,
            one_sql=sql.read_full_one,
            key_of=_id_of,
            decode=full_of,
        )
        self.info_at: Lookup[tuple[str, str], tuple[ResourceMeta, RevisionInfo | None]] = Lookup(
            tables, sql.read_at, what="reads", arguments=_pairs, key_of=_pair_of, decode=meta_with_revision
        )
        self.full_at: Lookup[tuple[str, str], StoredRevision | Partial | ResourceMeta] = Lookup(
            tables, sql.read_at_full, what="reads", arguments=_pairs_and_limit, key_of=_pair_of, decode=full_of
        )

    async def read(self, resource_id: str, revision_id: str | None) -> StoredRevision | ResourceMeta | None:
        """A resource with one revision and its payload."""
        for _ in range(_READ_ATTEMPTS):
            if revision_id is None:
                found = await self.full.one(resource_id)
            else:
                found = await self.full_at.one((resource_id, revision_id))
            if not isinstance(found, Partial):
                return found
            # A batcher may be called from any loop, what follows may not.
            whole = await cross_to(self._tables.home, functools.partial(self._whole, found))
            if whole is not None:
                return whole
        raise BackendUnavailable(f"{resource_id!r} changes faster than it can be read; retry", backend="postgres")

    async def read_many(self, resource_ids: Sequence[str]) -> list[StoredRevision | None]:
        """The current revisions with their payloads."""
        results: list[StoredRevision | None] = []
        for found in await self.full.many(resource_ids, each_full_of):
            whole = await self.complete(found) if isinstance(found, Partial) else found
            results.append(whole if isinstance(whole, StoredRevision) else None)
        return results

    async def complete(self, partial: Partial) -> StoredRevision | ResourceMeta | None:
        """The resource with its large payload, as it is now if it was changed meanwhile."""
        return await self._whole(partial) or await self.read(partial.meta.resource_id, None)

    async def _whole(self, partial: Partial) -> StoredRevision | None:
        """Fetch a large payload; None if the revision was rewritten or erased meanwhile."""
        connection = await self._tables.ready()
        meta, revision = partial
        rows = await connection.fetch_alone(
            self._sql.payload, revision.resource_id, revision.revision_id, revision.payload_id
        )
        if not rows:
            return None
        if rows[0][0] is None:
            raise payload_gone(revision, model=self._tables.model, where=connection.where)
        return StoredRevision(meta, revision, rows[0][0])

    async def list_revisions(self, resource_id: str) -> list[RevisionInfo]:
        """All revisions, oldest first."""
        connection = await self._tables.ready()
        rows = await connection.fetch_alone(self._sql.list_revisions, resource_id)
        return [revision_of(row[0], row, 1) for row in rows]
