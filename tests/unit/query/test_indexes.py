"""Which indexes a declared field has."""

from __future__ import annotations

import pytest

from specstar import QB, SpecStar
from specstar.query import POSTGRES, SQLITE, IndexedField, index_definitions
from specstar.query.dialects import Dialect


@pytest.mark.parametrize("dialect", [SQLITE, POSTGRES])
def test_one_index_a_kind_or_none(dialect: Dialect) -> None:
    kinds = IndexedField("size", kinds=frozenset({"string", "number"}))
    assert len(index_definitions("t", kinds, dialect)) == 2
    assert index_definitions("t", IndexedField("size", kinds=kinds.kinds, index=False), dialect) == []


async def test_a_field_without_index_is_searched_all_the_same() -> None:
    from msgspec import Struct

    class Item(Struct):
        size: int

    spec = SpecStar()
    items = spec.add_model(Item, indexed_fields=[IndexedField("size", kinds=frozenset({"number"}), index=False)])
    async with spec:
        spec.configure(backend={role: {"type": "memory"} for role in ("meta", "resource", "blob")})
        await items.create_many([Item(1), Item(2), Item(2)])
        assert await items.count(QB["size"] == 2) == 2
        assert [found.data.size for found in await items.search(sort=["-size"], limit=1)] == [2]
