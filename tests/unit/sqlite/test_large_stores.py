"""Reads by id in a large store: SQLite looks at the rows of a batch before they are asked for; what they give is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec import Struct

from specstar import SpecStar
from specstar.backends.sqlite import lanes
from specstar.backends.sqlite.database import Database
from specstar.errors import ResourceNotFoundError

CALLERS = 48


class Note(Struct):
    text: str


@pytest.mark.parametrize("large", [True, False])
async def test_reads_give_the_same_with_and_without_a_look_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: object, large: bool
) -> None:
    monkeypatch.setattr(lanes, "_LARGE_BYTES", 1 if large else 1 << 60)
    monkeypatch.setattr(lanes, "_PROCESSORS", 2)
    looks: list[str] = []
    execute = Database.execute

    def seen(self: Database, sql: str, values: Any = ()) -> list[Any]:
        if "count(v.info)" in sql:
            looks.append(sql)
        return execute(self, sql, values)

    monkeypatch.setattr(Database, "execute", seen)
    spec = SpecStar()
    notes = spec.add_model(Note, name="notes")
    options = {"rootdir": str(tmp_path)}
    spec.configure(backend={role: {"type": "disk", "options": options} for role in ("meta", "resource", "blob")})
    async with spec:
        made = await notes.create_many([Note(f"note {number}") for number in range(CALLERS)])
        ids = [info.resource_id for info in made]
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
        await notes.update(ids[1], Note("changed"))
        assert (await notes.get(ids[1])).data.text == "changed"
    assert bool(looks) == large
