"""The rows that a writer remembers take little memory, however large rows are."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Struct

from specstar import QB, SpecStar


class Note(Struct):
    text: str
    tags: list[str] = []


@pytest.mark.parametrize("large", [Note("x" * 100_000), Note("x", ["tag"] * 5_000), Note("x", ["x" * 100_000])])
async def test_a_row_with_much_that_is_indexed_is_not_remembered(anyio_backend: Any, large: Note) -> None:
    spec = SpecStar()
    spec.configure(backend={"meta": {"type": "memory"}, "resource": {"type": "memory"}})
    notes = spec.add_model(Note, indexed_fields=["text", "tags"])
    async with spec:
        small = await notes.create(Note("small"))
        info = await notes.create(large)
        remembered = notes._slot.writer._recent
        assert set(remembered) == {small.resource_id}
        await notes.update(small.resource_id, large)
        assert not remembered
        await notes.delete(info.resource_id)
        await notes.restore(info.resource_id)
        await notes.update(info.resource_id, Note("small"))
        assert set(remembered) == {info.resource_id}
        assert await notes.count(QB["text"] == "small") == 1
