"""The resource role alone: payloads in a table of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias, cast

from specstar.backends.postgres.batching import MAX_ROWS
from specstar.backends.postgres.lost_answers import settled
from specstar.backends.postgres.outcomes import AnswerLost, BadValue, WriteRace
from specstar.backends.postgres.reader import largest_payload
from specstar.backends.postgres.schema import PAYLOAD
from specstar.backends.postgres.tables import ModelTables
from specstar.backends.postgres.writes import check_size
from specstar.errors import BackendUnavailable, SpecstarError
from specstar.roles.resource import PayloadKey, ResourceStore, StoredPayload
from specstar.roles.storage import ModelSpec
from specstar.runtime import Batcher, portions

if TYPE_CHECKING:
    from specstar.backends.postgres.connection import PostgresConnection, Row
    from specstar.backends.postgres.options import PostgresOptions
    from specstar.backends.provider import BackendContext

__all__ = ["PostgresResourceStore"]

Item: TypeAlias = tuple[PayloadKey, bytes]

_ATTEMPTS = 4
_PAGE = 1000
_LARGE = object()


class PostgresResourceStore(ResourceStore):
    """The payloads of one model. A key is written once, so every write may be repeated."""

    def __init__(self, context: BackendContext[PostgresOptions, PostgresConnection], model: ModelSpec) -> None:
        self._tables = tables = ModelTables(context, model, PAYLOAD)
        self._sql = tables.payload_sql
        self._puts: Batcher[Item, None] = Batcher(
            tables.home,
            self._flush_puts,
            name=f"postgres payload writes of {model.name}",
            max_items=MAX_ROWS,
            max_bytes=tables.batch_bytes,
            max_in_flight=3,
            size_of=_size,
        )
        self._gets: Batcher[PayloadKey, bytes | object | None] = Batcher(
            tables.home, self._flush_gets, name=f"postgres payload reads of {model.name}", max_items=MAX_ROWS
        )

    async def put(self, key: PayloadKey, payload: bytes) -> None:
        await self._puts.submit(_checked((key, payload)))

    async def put_many(self, items: Sequence[tuple[PayloadKey, bytes]]) -> None:
        for item in items:
            _checked(item)
        for batch in portions(items, _size, max_bytes=self._tables.batch_bytes, max_items=MAX_ROWS):
            for outcome in await self._flush_puts(batch):
                if outcome is not None:
                    raise outcome

    async def _flush_puts(self, items: list[Item]) -> list[Exception | None]:
        items_by_key = sorted(dict(items).items())
        keys = [key for key, _ in items_by_key]
        try:
            await self._write(
                self._sql.put,
                [key.resource_id for key in keys],
                [key.payload_id for key in keys],
                [payload for _, payload in items_by_key],
            )
        except BadValue as bad:
            if len(items) == 1:
                connection = await self._tables.ready()
                return [connection.translated(bad.__cause__ or bad, f"writing payloads of {self._tables.model}")]
            middle = len(items) // 2
            return await self._flush_puts(items[:middle]) + await self._flush_puts(items[middle:])
        self._tables.growth.add(len(items_by_key), await self._tables.ready())
        return [None] * len(items)

    async def _write(self, sql: str, *arguments: object) -> None:
        """Run a statement that may be repeated, until its answer arrives."""
        connection = await self._tables.ready()
        cause: BaseException | None = None
        silent: AnswerLost | None = None
        for _ in range(_ATTEMPTS):
            try:
                await connection.attempt(sql, *arguments)
            except WriteRace as race:
                cause = race.__cause__
            except AnswerLost as lost:
                cause, silent = lost.__cause__, lost
                if lost.timed_out:
                    break
                try:
                    await settled(connection, lost, "SELECT")
                except SpecstarError:
                    break
            else:
                return
        raise BackendUnavailable(f"{connection.silence(silent)}; retry later", backend="postgres") from cause

    async def get(self, key: PayloadKey) -> bytes | None:
        found = await self._gets.submit(key)
        return await self._get_large(key) if found is _LARGE else _payload(found)

    async def get_many(self, keys: Sequence[PayloadKey]) -> list[bytes | None]:
        results: list[bytes | None] = []
        for start in range(0, len(keys), MAX_ROWS):
            part = list(keys[start : start + MAX_ROWS])
            for key, found in zip(part, await self._flush_gets(part), strict=True):
                results.append(await self._get_large(key) if found is _LARGE else _payload(found))
        return results

    async def _flush_gets(self, keys: list[PayloadKey]) -> list[bytes | object | None]:
        connection = await self._tables.ready()
        distinct = list(dict.fromkeys(keys))
        limit = largest_payload(self._tables.batch_bytes, len(distinct))
        rows = await connection.fetch(
            self._sql.get, [key.resource_id for key in distinct], [key.payload_id for key in distinct], limit
        )
        found = {(row[0], row[1]): _LARGE if row[2] is None else row[2] for row in rows}
        return [found.get(key) for key in keys]

    async def _get_large(self, key: PayloadKey) -> bytes | None:
        connection = await self._tables.ready()
        rows = await connection.fetch(self._sql.get_one, key.resource_id, key.payload_id)
        return rows[0][0] if rows else None

    async def delete_many(self, keys: Sequence[PayloadKey]) -> None:
        ordered = sorted(set(keys))
        for start in range(0, len(ordered), _PAGE):
            part = ordered[start : start + _PAGE]
            try:
                await self._write(self._sql.delete, [key.resource_id for key in part], [key.payload_id for key in part])
            except BadValue as bad:
                connection = await self._tables.ready()
                raise connection.translated(bad.__cause__ or bad, f"deleting payloads of {self._tables.model}") from bad

    async def list(self) -> AsyncIterator[list[StoredPayload]]:
        after = ("", "")
        while True:
            connection = await self._tables.ready()
            rows = await connection.fetch(self._sql.page, *after, _PAGE, doing="listing payloads")
            if rows:
                yield [_stored(row) for row in rows]
            if len(rows) < _PAGE:
                return
            after = (rows[-1][0], rows[-1][1])

    async def clock(self) -> datetime:
        connection = await self._tables.ready()
        ((now,),) = await connection.fetch("SELECT clock_timestamp()", doing="asking for the time")
        return cast("datetime", now)


def _stored(row: Row) -> StoredPayload:
    return StoredPayload(PayloadKey(row[0], row[1]), row[2], row[3])


def _payload(found: bytes | object | None) -> bytes | None:
    assert found is None or isinstance(found, bytes)
    return found


def _checked(item: Item) -> Item:
    check_size(_size(item), item[0].resource_id)
    return item


def _size(item: Item) -> int:
    return 256 + len(item[1])
