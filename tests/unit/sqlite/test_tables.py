"""Table names, indexes and plans of one model."""

from __future__ import annotations

import json
import string
from datetime import UTC, datetime

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from specstar.backends.sqlite.database import Database
from specstar.backends.sqlite.names import table_suffix
from specstar.backends.sqlite.rows import (
    META_COLUMNS,
    decode_meta,
    decode_revision,
    encode_meta,
    encode_revision,
)
from specstar.backends.sqlite.search import ExplainRows, SearchIds
from specstar.backends.sqlite.tables import ModelTables
from specstar.backends.sqlite.writes import EnsureModel, model_is_ready
from specstar.config.encoding import Encoding
from specstar.query import QB, build_query, fields_of, micros_of, time_of
from specstar.roles import ModelSpec, ResourceMeta, RevisionInfo, RevisionStatus


class Person(msgspec.Struct):
    name: str
    age: int


def tables(*paths: str, name: str = "Person") -> ModelTables:
    return ModelTables(ModelSpec(name=name, indexed_fields=fields_of(Person, paths)))


@given(st.text(st.characters(), min_size=1), st.text(st.characters(), min_size=1))
def test_names_are_safe_short_and_apart(one: str, other: str) -> None:
    suffix = table_suffix(one)
    assert set(suffix) <= set(string.ascii_lowercase + string.digits + "_")
    assert len(suffix) <= 60
    assert (suffix == table_suffix(other)) == (one == other)


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))  # noqa: DTZ001  hypothesis wants naive bounds
def test_times_are_exact(naive: datetime) -> None:
    time = naive.replace(tzinfo=UTC)
    assert time_of(micros_of(time)) == time


@given(
    st.builds(
        RevisionInfo,
        resource_id=st.just("r"),
        revision_id=st.just("v"),
        payload_id=st.sampled_from(["v", "p", ""]),
        parent_revision_id=st.sampled_from([None, "", "u"]),
        status=st.sampled_from(RevisionStatus),
        encoding=st.sampled_from(Encoding),
        size=st.integers(0, 1 << 40),
        created_time=st.datetimes(timezones=st.just(UTC)),
        updated_time=st.datetimes(timezones=st.just(UTC)),
        created_by=st.sampled_from(["", "ann"]),
        updated_by=st.sampled_from(["", "ann", "bob"]),
        schema_version=st.sampled_from([None, "", "2"]),
    )
)
def test_a_revision_survives_now_and_as_version_1_wrote_it(revision: RevisionInfo) -> None:
    assert decode_revision(encode_revision(revision), "r", "v") == revision
    assert decode_revision(msgspec.msgpack.encode(revision), "r", "v") == revision


def test_a_row_survives() -> None:
    time = datetime(2024, 5, 1, 10, 0, 0, 1, tzinfo=UTC)
    meta = ResourceMeta(
        resource_id="r",
        current_revision_id="v",
        created_time=time,
        updated_time=time,
        is_deleted=True,
        indexed_data={"a": 1},
    )
    row = encode_meta(meta)
    assert len(row) == len(META_COLUMNS)
    assert decode_meta([int(value) if value is True else value for value in row]) == meta


def test_tables_are_made_once_and_grow_indexes_later() -> None:
    database = Database.in_memory()
    narrow, wide = tables("name"), tables("name", "age")
    assert not model_is_ready(database, narrow)
    assert database.write([EnsureModel(narrow), EnsureModel(narrow)]) == [None, None]
    assert model_is_ready(database, narrow)
    assert not model_is_ready(database, wide)
    assert database.write([EnsureModel(wide)]) == [None]
    assert model_is_ready(database, wide)
    assert database.execute("SELECT name FROM specstar_models") == [("Person",)]


def test_any_model_name_is_recorded() -> None:
    database = Database.in_memory()
    names = ["Größe", "模型", "a" * 300, 'x"; DROP TABLE specstar_models; --', "\ud800"]
    assert database.write([EnsureModel(tables(name=name)) for name in names]) == [None] * len(names)
    assert {row[0] for row in database.execute("SELECT name FROM specstar_models")} == {*names[:-1], "\\ud800"}


def test_an_indexed_search_among_100_000_rows_uses_the_index() -> None:
    database = Database.in_memory()
    model = tables("name", "age")
    database.write([EnsureModel(model)])
    with database.transaction():
        database.executemany(
            model.insert_meta,
            [
                (f"r{n:06d}", "v", 1, 1, n, n, "", "", 0, None, json.dumps({"name": f"n{n}", "age": n % 5000}))
                for n in range(100_000)
            ],
        )
    fields = model.model.indexed_fields
    for condition, sort in [
        (QB["age"] == 17, ()),
        (QB["age"] > 4990, ("age",)),
        (QB["name"].starts_with("n123"), ("name",)),
        (None, ("-age",)),
        (None, ("-created_time",)),
        ((QB["age"] == 17) & QB["name"].contains("5"), ()),
    ]:
        query = build_query(condition, fields=fields, sort=sort, limit=20)
        (plan,) = database.read([ExplainRows(model, query)])
        assert "USING INDEX" in plan or "USING COVERING INDEX" in plan, plan
        assert not plan.startswith(f"SCAN {model.meta_name}\n"), plan
        (found,) = database.read([SearchIds(model, query)])
        assert 0 < len(found) <= 20
