"""New rows that are written together end as they would alone."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import msgspec
import pytest

from specstar.backends.sqlite.database import Database
from specstar.backends.sqlite.tables import ModelTables
from specstar.backends.sqlite.writes import CreateRows, EnsureModel, WriteRow, joined
from specstar.errors import DuplicateResourceError, SpecstarError
from specstar.query import fields_of
from specstar.roles import MetaWrite, ModelSpec, ResourceMeta, RevisionInfo

NOW = datetime(2024, 5, 1, tzinfo=UTC)


class Person(msgspec.Struct):
    name: str
    age: int


def model(name: str) -> ModelTables:
    return ModelTables(ModelSpec(name=name, indexed_fields=fields_of(Person, ["name", "age"])))


PEOPLE, PETS = model("people"), model("pets")


def create(key: str, *, tables: ModelTables = PEOPLE, revision_id: str = "v1") -> WriteRow:
    meta = ResourceMeta(
        resource_id=key, current_revision_id=revision_id, created_time=NOW, updated_time=NOW, indexed_data={"name": key}
    )
    revision = RevisionInfo(
        resource_id=key, revision_id=revision_id, payload_id=revision_id, created_time=NOW, updated_time=NOW
    )
    return WriteRow(tables, MetaWrite(meta, revision, None), f"payload of {key}".encode())


def touch(key: str, expected: int) -> WriteRow:
    meta = ResourceMeta(
        resource_id=key, current_revision_id="v1", version=expected + 1, created_time=NOW, updated_time=NOW
    )
    return WriteRow(PEOPLE, MetaWrite(meta, None, expected))


@pytest.fixture
def database() -> Database:
    database = Database.in_memory()
    assert database.write([EnsureModel(PEOPLE), EnsureModel(PETS)]) == [None, None]
    return database


def content(database: Database) -> list[tuple[str, bytes]]:
    rows = database.execute(
        f"SELECT m.resource_id, v.payload FROM {PEOPLE.meta} m JOIN {PEOPLE.revisions} v "
        "ON v.resource_id = m.resource_id AND v.revision_id = m.current_revision_id ORDER BY m.resource_id"
    )
    return [tuple(row) for row in rows]


def test_new_rows_of_one_model_go_together_in_their_order() -> None:
    operations = [create(f"a{number}") for number in range(41)]
    operations += [create(f"b{number}", tables=PETS) for number in range(9)]
    operations += [touch("a1", 1), create("c")]
    groups = list(joined(operations))
    assert [len(group.operations) if isinstance(group, CreateRows) else 1 for group in groups] == [32, 8, 1, 8, 1, 1, 1]
    flat = [
        operation for group in groups for operation in (group.operations if isinstance(group, CreateRows) else [group])
    ]
    assert flat == operations
    assert list(joined([])) == []


def test_each_row_has_its_own_result(database: Database) -> None:
    keys = [f"k{number:02}" for number in range(40)]
    operations = [create(key) for key in keys]
    assert database.write(operations, join=joined) == [None] * 40
    assert content(database) == [(key, f"payload of {key}".encode()) for key in keys]
    again = [
        create(key, revision_id="v2") for key in ("k05", "new1", "k39", *(f"n{number}" for number in range(20)), "new1")
    ]
    results = database.write(again, join=joined)
    assert [type(result) for result in results] == [
        DuplicateResourceError,
        type(None),
        DuplicateResourceError,
        *[type(None)] * 20,
        DuplicateResourceError,
    ]
    assert dict(content(database))["k05"] == b"payload of k05"
    assert len(content(database)) == 40 + 21


def test_the_results_are_those_of_single_writes() -> None:
    for seed in range(30):
        chance = random.Random(seed)
        one, other = Database.in_memory(), Database.in_memory()
        for database in (one, other):
            database.write([EnsureModel(PEOPLE), EnsureModel(PETS)])
        for _ in range(4):
            operations = [
                touch(f"k{chance.randrange(60)}", chance.randrange(1, 3))
                if chance.random() < 0.05
                else create(f"k{chance.randrange(60)}", tables=chance.choice([PEOPLE] * 9 + [PETS]))
                for _ in range(chance.randrange(1, 80))
            ]
            results = one.write(operations, join=joined)
            expected = other.write(operations)
            assert [shown(result) for result in results] == [shown(result) for result in expected], seed
        assert content(one) == content(other), seed


def test_a_row_that_sqlite_refuses_harms_no_other(database: Database) -> None:
    operations = [create(f"k{number}") for number in range(20)]
    bad = create("bad")
    bad.row = (*bad.row[:2], None, *bad.row[3:])  # NOT NULL
    results = database.write([*operations, bad], join=joined)
    assert results[:20] == [None] * 20
    assert isinstance(results[20], SpecstarError)
    assert len(content(database)) == 20


def shown(result: object) -> tuple[type, str]:
    return type(result), str(result)
