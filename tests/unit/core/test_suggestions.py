from __future__ import annotations

import pytest

from specstar.suggestions import closest, did_you_mean


@pytest.mark.parametrize(
    ("name", "found"),
    [("nmae", "name"), ("NAME", "name"), ("Full_Naem", "full_Name"), ("age", None), ("", None), ("n" * 10_000, None)],
)
def test_the_closest_name(name: str, found: str | None) -> None:
    assert closest(name, ["name", "full_Name"]) == found


def test_no_known_name_is_close_where_there_is_none() -> None:
    assert closest("name", []) is None


def test_the_end_of_a_message() -> None:
    assert did_you_mean("name") == " (did you mean 'name'?)"
    assert did_you_mean(None) == ""
