"""PostgreSQL by hand on asyncpg, as its users write it: a pool, prepared statements, a transaction a call."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import Any

import msgspec

from benchmarks.contestant import Contestant, distributions
from benchmarks.sample import person, shuffled_forever

__all__ = ["OneStatement", "RawAsyncpg"]

_TABLES = """
CREATE TABLE {t} (
    resource_id text COLLATE "C" PRIMARY KEY, current_revision_id text NOT NULL, version int NOT NULL,
    created_time timestamptz NOT NULL DEFAULT now(), updated_time timestamptz NOT NULL DEFAULT now(),
    is_deleted bool NOT NULL DEFAULT false, age int NOT NULL, name text NOT NULL
) WITH (fillfactor = 85);
CREATE INDEX ON {t} (age, resource_id) WHERE NOT is_deleted;
CREATE INDEX ON {t} (name);
CREATE TABLE {t}_revision (
    resource_id text COLLATE "C" NOT NULL, revision_id text COLLATE "C" NOT NULL, parent_revision_id text,
    created_time timestamptz NOT NULL DEFAULT now(), payload bytea NOT NULL, PRIMARY KEY (resource_id, revision_id)
)
"""
_INSERT = "INSERT INTO {t} (resource_id, current_revision_id, version, age, name) VALUES ($1, $2, 1, $3, $4)"
_INSERT_REVISION = (
    "INSERT INTO {t}_revision (resource_id, revision_id, parent_revision_id, payload) VALUES ($1, $2, $3, $4)"
)
_ONE_STATEMENT = (
    "WITH meta AS (INSERT INTO {t} (resource_id, current_revision_id, version, age, name) VALUES ($1, $2, 1, $3, $4)) "
    "INSERT INTO {t}_revision (resource_id, revision_id, payload) VALUES ($1, $2, $5)"
)
_GET = (
    "SELECT m.*, r.revision_id, r.created_time AS revision_time, r.payload FROM {t} m "
    "JOIN {t}_revision r ON r.resource_id = m.resource_id AND r.revision_id = m.current_revision_id "
    "WHERE m.resource_id = $1"
)
_UPDATE = (
    "UPDATE {t} SET current_revision_id = $3, version = version + 1, updated_time = now(), age = $4, name = $5 "
    "WHERE resource_id = $1 AND current_revision_id = $2 AND NOT is_deleted"
)
_SEARCH = (
    "SELECT m.*, r.revision_id, r.created_time AS revision_time, r.payload FROM {t} m "
    "JOIN {t}_revision r ON r.resource_id = m.resource_id AND r.revision_id = m.current_revision_id "
    "WHERE m.age = $1 AND NOT m.is_deleted ORDER BY m.resource_id LIMIT 20"
)


class Person(msgspec.Struct):
    """The payload."""

    name: str
    age: int
    city: str
    note: str


def new_id() -> str:
    """Random, and ordered by time, as specstar's are: inserts go to the end of the index."""
    return f"{time.time_ns():016x}{os.urandom(8).hex()}"


class RawAsyncpg(Contestant):
    """Two inserts in one transaction a create, one `fetchrow` with a join a get, `setting["pool_size"]` connections."""

    async def open(self) -> None:
        import asyncpg

        dsn: str = self.setting["environment"]["POSTGRES_DSN"]
        size: int = self.setting["pool_size"]
        self.pool: asyncpg.Pool[Any] = await asyncpg.create_pool(dsn, min_size=size, max_size=size)
        self.encode = msgspec.json.Encoder().encode
        self.decode = msgspec.json.Decoder(Person).decode
        self.rows: int = self.setting.get("rows", 10_000)
        self.search_rows: int = self.setting["search_rows"]
        self._prefix = f"raw_{os.getpid()}"
        self._held: dict[str, list[tuple[str, str]]] = {}
        for name in ("written", "read", "changed", "found"):
            await self.pool.execute(self._sql(_TABLES, name))
        self.sql = {
            "insert": self._sql(_INSERT, "written"),
            "insert_revision": self._sql(_INSERT_REVISION, "written"),
            "one": self._sql(_ONE_STATEMENT, "written"),
            "get": self._sql(_GET, "read"),
            "update": self._sql(_UPDATE, "changed"),
            "add_revision": self._sql(_INSERT_REVISION, "changed"),
            "search": self._sql(_SEARCH, "found"),
        }

    async def close(self) -> None:
        for name in ("written", "read", "changed", "found"):
            await self.pool.execute(self._sql("DROP TABLE {t}, {t}_revision", name))
        await self.pool.close()

    def versions(self) -> dict[str, str]:
        return distributions("asyncpg", "msgspec")

    def _sql(self, template: str, name: str) -> str:
        return template.replace("{t}", f"{self._prefix}_{name}")

    def person(self, number: int) -> Person:
        """The value of resource `number`."""
        return msgspec.convert(person(number, self.payload), Person)

    async def fill(self, name: str, rows: int) -> list[tuple[str, str]]:
        """Make sure that a table has its rows."""
        if name not in self._held:
            metas, revisions = [], []
            for number in range(rows):
                value = self.person(number)
                resource_id, revision_id = new_id(), new_id()
                metas.append((resource_id, revision_id, 1, value.age, value.name))
                revisions.append((resource_id, revision_id, self.encode(value)))
            async with self.pool.acquire() as connection:
                table = f"{self._prefix}_{name}"
                await connection.copy_records_to_table(
                    table, records=metas, columns=["resource_id", "current_revision_id", "version", "age", "name"]
                )
                await connection.copy_records_to_table(
                    f"{table}_revision", records=revisions, columns=["resource_id", "revision_id", "payload"]
                )
                await connection.execute(f"ANALYZE {table}, {table}_revision")
            self._held[name] = [row[:2] for row in metas]
        return self._held[name]

    async def create(self, caller: int) -> None:
        """Meta and revision in one transaction."""
        value = self.person(self.count())
        resource_id, revision_id = new_id(), new_id()
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute(self.sql["insert"], resource_id, revision_id, value.age, value.name)
            await connection.execute(self.sql["insert_revision"], resource_id, revision_id, None, self.encode(value))

    async def prepare_get(self) -> None:
        """Something to read."""
        self._ids = shuffled_forever([row[0] for row in await self.fill("read", self.rows)])

    async def get(self, caller: int) -> None:
        """Meta, revision and decoded payload."""
        row = await self.pool.fetchrow(self.sql["get"], next(self._ids))
        assert row is not None
        self.decode(row["payload"])

    async def prepare_update(self) -> None:
        """Something to change; each caller has resources of its own."""
        if "changed" not in self._held:
            self._current = deque(enumerate(await self.fill("changed", self.rows)))

    async def update(self, caller: int) -> None:
        """A new revision and the pointer to it, if the current one is the one that this caller knows."""
        number, (resource_id, known) = self._current.popleft()
        value, revision_id = self.person(number), new_id()
        async with self.pool.acquire() as connection, connection.transaction():
            done = await connection.execute(self.sql["update"], resource_id, known, revision_id, value.age, value.name)
            if done != "UPDATE 1":
                raise RuntimeError(done)
            await connection.execute(self.sql["add_revision"], resource_id, revision_id, known, self.encode(value))
        self._current.append((number, (resource_id, revision_id)))

    async def prepare_search(self) -> None:
        """Something to find."""
        await self.fill("found", self.search_rows)
        self._ages = shuffled_forever(list(range(self.search_rows // 100)))

    async def search(self, caller: int) -> None:
        """20 of the 100 resources with one value in an indexed column, decoded."""
        rows = await self.pool.fetch(self.sql["search"], next(self._ages))
        found = [self.decode(row["payload"]) for row in rows]
        if len(found) != 20:
            raise RuntimeError(f"found {len(found)} instead of 20")


class OneStatement(RawAsyncpg):
    """The same with both inserts in one statement: a round trip instead of four, which fewer programs take the trouble for."""

    async def create(self, caller: int) -> None:
        """Meta and revision in one statement."""
        value = self.person(self.count())
        await self.pool.execute(self.sql["one"], new_id(), new_id(), value.age, value.name, self.encode(value))
