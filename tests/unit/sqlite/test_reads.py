"""Reads by id of many callers: one statement, whose rows SQLite has fetched before it gives the first one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec import Struct

from specstar import SpecStar
from specstar.backends.sqlite import lanes, reads
from specstar.backends.sqlite.database import Database
from specstar.backends.sqlite.rows import encode_meta
from specstar.backends.sqlite.tables import ModelTables
from specstar.backends.sqlite.writes import EnsureModel
from specstar.errors import ResourceNotFoundError
from specstar.roles import ModelSpec, ResourceMeta

CALLERS = 48


class Note(Struct):
    text: str


@pytest.mark.parametrize("processors", [1, 2])
async def test_each_caller_gets_its_own_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: object, processors: int
) -> None:
    monkeypatch.setattr(lanes, "_PROCESSORS", processors)
    statements: list[str] = []
    execute = Database.execute

    def seen(self: Database, sql: str, values: Any = ()) -> list[Any]:
        if "json_each" in sql and sql.startswith("SELECT"):
            statements.append(sql)
        return execute(self, sql, values)

    spec = SpecStar()
    notes = spec.add_model(Note, name="notes")
    options = {"rootdir": str(tmp_path)}
    spec.configure(backend={role: {"type": "disk", "options": options} for role in ("meta", "resource", "blob")})
    async with spec:
        made = await notes.create_many([Note(f"note {number}") for number in range(CALLERS)])
        ids = [info.resource_id for info in made]
        monkeypatch.setattr(Database, "execute", seen)
        found: dict[int, str | None] = {}

        async def get(number: int) -> None:
            try:
                found[number] = (await notes.get(ids[number] if number % 5 else "absent")).data.text
            except ResourceNotFoundError:
                found[number] = None

        for _ in range(3):
            found.clear()
            async with anyio.create_task_group() as group:
                for number in range(CALLERS):
                    group.start_soon(get, number)
            assert found == {number: f"note {number}" if number % 5 else None for number in range(CALLERS)}
    assert 3 <= len(statements) <= 3 * (processors + 1)


def test_very_many_ids_take_several_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "_MOST_TOGETHER", 8)
    database = Database.in_memory()
    tables = ModelTables(ModelSpec(name="x"))
    database.write([EnsureModel(tables)])
    ids = [f"r{number}" for number in range(30)]
    time = datetime(2026, 1, 2, tzinfo=UTC)
    metas = [
        ResourceMeta(resource_id=one, current_revision_id="v", created_time=time, updated_time=time) for one in ids
    ]
    for meta in metas:
        database.execute(tables.insert_meta, encode_meta(meta))
    (found,) = database.read([reads.GetMeta(tables, [*reversed(ids), "absent"])])
    assert found == [*reversed(metas), None]


def test_all_rows_are_fetched_before_the_first_is_given() -> None:
    database = Database.in_memory()
    tables = ModelTables(ModelSpec(name="x"))
    database.write([EnsureModel(tables)])
    for select in (tables.select_meta, tables.select_current, tables.select_current_payload):
        plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {reads._together(select)}", ("[]",))]
        assert "USE TEMP B-TREE FOR ORDER BY" in plan
        assert any("USING PRIMARY KEY (resource_id=?)" in step for step in plan)
