"""Cutting many items into bounded pieces."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from specstar.runtime import portions


@given(st.lists(st.integers(0, 50)), st.integers(0, 40), st.none() | st.integers(1, 5))
def test_portions_keep_order_and_limits_and_are_as_large_as_they_may_be(
    sizes: list[int], max_bytes: int, max_items: int | None
) -> None:
    found = list(portions(sizes, lambda size: size, max_bytes=max_bytes, max_items=max_items))
    assert [size for portion in found for size in portion] == sizes
    for portion in found:
        assert portion
        assert len(portion) == 1 or sum(portion) <= max_bytes
        assert max_items is None or len(portion) <= max_items
    for portion, following in pairwise(found):
        assert sum(portion) + following[0] > max_bytes or len(portion) == max_items
