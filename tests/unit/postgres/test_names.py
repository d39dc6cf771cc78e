"""Names: any text becomes a safe identifier, and two texts never the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from specstar.backends.postgres.indexes import payload_index
from specstar.backends.postgres.names import TableNames, base_name
from specstar.query import quote_identifier

texts = st.text(st.characters(codec=None), max_size=120)


@given(texts, texts)
def test_a_name_is_safe_and_short(prefix: str, model: str) -> None:
    base = base_name(prefix, model)
    assert base.isascii()
    assert all(character.isalnum() or character == "_" for character in base)
    names = TableNames.of(prefix=prefix, schema="", model=model)
    for name in (
        names.meta,
        names.revision,
        names.payload,
        names.versions,
        quote_identifier(payload_index(names).name),
    ):
        assert 0 < len(name) - 2 <= 63


@given(texts, texts, texts)
def test_models_of_one_prefix_never_share_a_name(prefix: str, one: str, two: str) -> None:
    assert (base_name(prefix, one) == base_name(prefix, two)) == (one == two)


def test_what_is_safe_stays_readable() -> None:
    assert base_name("app_", "User") == "app_User"
    names = TableNames.of(prefix="app_", schema="tenant one", model="User")
    assert names.meta == '"tenant one"."app_User_meta"'
    assert names.versions == '"tenant one"."app_specstar_schema"'
    assert base_name("", "us er").startswith("us_er_")


def test_a_name_made_to_look_like_a_hash_collides_with_none() -> None:
    hashed = base_name("", "us er")
    assert base_name("", hashed) != hashed
