"""The rows that a writer remembers take little memory, however large rows are."""

from __future__ import annotations

from typing import Any

import anyio
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


async def test_the_record_of_another_revision_is_not_remembered_with_a_row(anyio_backend: Any) -> None:
    """Else `modify` would rewrite the revision that was current before a switch."""
    spec = SpecStar()
    spec.configure(backend={"meta": {"type": "memory"}, "resource": {"type": "memory"}})
    notes = spec.add_model(Note)
    async with spec:
        first = await notes.create(Note("first"), status="draft")
        second = await notes.update(first.resource_id, Note("second"), status="draft")
        async with anyio.create_task_group() as group:
            group.start_soon(notes.switch, first.resource_id, first.revision_id)
            group.start_soon(notes.modify, first.resource_id, Note("first again"))
        found = await notes.get(first.resource_id)
        assert (found.revision_id, found.data.text) in [
            (first.revision_id, "first again"),
            (first.revision_id, "first"),  # the change came before the switch
        ]
        await notes.modify(first.resource_id, Note("once more"))
        texts = [
            (await notes.get(first.resource_id, revision_id=revision_id)).data.text
            for revision_id in (first.revision_id, second.revision_id)
        ]
        assert texts[0] == "once more"
        assert texts[1] in ("second", "first again")
