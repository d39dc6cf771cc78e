"""The tables of one model: their names and statements, and the check that they are there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from specstar.backends.postgres.growth import Growth
from specstar.backends.postgres.indexes import (
    build,
    dropped,
    field_indexes,
    missing,
    old_payload_index,
    payload_index,
    revision_count_index,
)
from specstar.backends.postgres.names import TableNames
from specstar.backends.postgres.payload_statements import PayloadSql, payload_sql
from specstar.backends.postgres.schema import BUSY_META, META, Component, ensure, give_room
from specstar.backends.postgres.statements import MetaSql, SearchSql, meta_sql
from specstar.query import IndexDefinition
from specstar.roles.storage import ModelSpec

if TYPE_CHECKING:
    from specstar.backends.postgres.connection import PostgresConnection
    from specstar.backends.postgres.options import PostgresOptions
    from specstar.backends.provider import BackendContext
    from specstar.runtime.home import Home

__all__ = ["ModelTables"]


class ModelTables:
    """What the stores of one model share. `ready` gives the open connection once the tables have been checked."""

    def __init__(
        self,
        context: BackendContext[PostgresOptions, PostgresConnection],
        model: ModelSpec,
        component: Component,
        *,
        finds_payloads: bool = False,
    ) -> None:
        self.home: Home = context.home
        self.model: str = model.name
        self.spec = model
        self.names: TableNames = TableNames.of(
            prefix=context.options.table_prefix, schema=context.options.schema, model=model.name
        )
        # A row that is rewritten soon and often should be short.
        self.meta_sql: MetaSql = meta_sql(self.names, copies=not model.busy_rows)
        self.payload_sql: PayloadSql = payload_sql(self.names)
        self.search_sql: SearchSql = SearchSql(self.names)
        # What the writes of one statement may hold together.
        self.batch_bytes: int = context.options.batch_bytes
        self.growth: Growth = Growth(context.home, component.tables(self.names))
        self._component = BUSY_META if component is META and model.busy_rows else component
        self._indexes: list[IndexDefinition] = []
        self._outdated: list[IndexDefinition] = []
        if component is META:
            of_fields = field_indexes(self.names, model.indexed_fields)
            if model.busy_rows:
                # An update that changes no indexed column stays on its page and writes no index; `indexed` always changes.
                self._indexes.append(revision_count_index(self.names))
                self._outdated = of_fields
            else:
                self._indexes = of_fields
        if finds_payloads:
            self._indexes.append(payload_index(self.names))
            self._outdated.append(old_payload_index(self.names))
        # Set once no index is being built.
        self.indexed: asyncio.Event = asyncio.Event()
        self._connection = context.connection
        self._checked = False
        self._lock = asyncio.Lock()

    @property
    def connected(self) -> PostgresConnection | None:
        """The open connection, if there is one."""
        return self._connection.opened

    async def ready(self) -> PostgresConnection:
        """The open connection. Checks the tables on first use in this process, and creates what is missing."""
        connection = self._connection.opened or await self._connection.get()
        if not self._checked:
            async with self._lock:
                if not self._checked:
                    await self._check(connection)
                    self._checked = True
        return connection

    async def _check(self, connection: PostgresConnection) -> None:
        created = await ensure(connection, self.names, self._component, self._indexes)
        if created:
            self.indexed.set()
            return
        absent = await missing(connection, self.names, [*self._indexes, *self._outdated])
        lacking = [definition for definition in self._indexes if definition in absent]
        afterwards = [dropped(self.names, definition) for definition in self._outdated if definition not in absent]
        if afterwards and self._component is BUSY_META:
            afterwards.append(give_room(self.names))
        if lacking or afterwards:
            self.home.spawn(self._build, connection, lacking, afterwards)
        else:
            self.indexed.set()

    async def _build(
        self, connection: PostgresConnection, lacking: list[IndexDefinition], afterwards: list[str]
    ) -> None:
        try:
            await build(connection, self.names, lacking, afterwards)
        finally:
            self.indexed.set()
