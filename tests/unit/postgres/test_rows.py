"""What a row holds, and what it must not."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from msgspec.structs import replace

from specstar.backends.postgres.columns import advance_columns, columns_of, encode_indexed
from specstar.backends.postgres.copies import copy_head
from specstar.backends.postgres.rows import full_parts, meta_of, meta_with_revision
from specstar.backends.postgres.statements import ADVANCE_COLUMNS, META_COLUMNS, REVISION_COLUMNS
from specstar.config.encoding import Encoding
from specstar.errors import DecodeError, InvalidInputError
from specstar.roles import MetaWrite, ResourceMeta, RevisionInfo, RevisionStatus
from specstar.roles.storage import Advance, StorageWrite

NOW = datetime(2024, 5, 1, tzinfo=UTC)
META = ResourceMeta(resource_id="r", current_revision_id="v", created_time=NOW, updated_time=NOW, indexed_data={"a": 1})
REVISION = RevisionInfo(resource_id="r", revision_id="v", payload_id="p", created_time=NOW, updated_time=NOW)
ROW = ("r", "v", 1, 1, NOW, NOW, "", "", False, None, '{"a": 1}')
REVISION_ROW = ("v", None, "p", "stable", "json", 0, NOW, NOW, "", "", None)


def test_columns_follow_the_statement() -> None:
    write = StorageWrite(MetaWrite(META, REVISION, None), b"x")
    alone = StorageWrite(MetaWrite(META, None, 3), None)
    create = columns_of([(write, "{}")], update=False)
    assert len(create) == len(META_COLUMNS) + len(REVISION_COLUMNS) + 2
    update = columns_of([(write, "{}"), (alone, "{}")], update=True)
    assert len(update) == len(create) + 1
    names = [name for name, _ in META_COLUMNS] + [f"r_{name}" for name, _ in REVISION_COLUMNS]
    sent = {name: column for name, column in zip(names, update, strict=False) if column}
    # The rest goes without saying.
    assert sent == {
        "resource_id": ["r", "r"],
        "current_revision_id": ["v", "v"],
        "updated_time": [NOW, NOW],
        "indexed": ["{}", "{}"],
        "r_payload_id": ["p", None],
        "r_size": [0, None],
    }
    head = copy_head((None, "p", None, None, 0, *[None] * 5), b"x")
    assert update[-3:] == [[b"x", None], [head, None], [None, 3]]
    made = {name: column for name, column in zip(names, create, strict=False) if column}
    # Whose creation it is stays with the row.
    assert made.pop("created_time") == [NOW]
    assert made == {name: column[:1] for name, column in sent.items() if name != "updated_time"}


def test_columns_of_an_advance_follow_the_statement() -> None:
    plain = replace(REVISION, parent_revision_id="u")
    draft = replace(plain, status=RevisionStatus.draft, encoding=Encoding.msgpack, updated_by="bob", schema_version="2")
    names = [name for name, _ in ADVANCE_COLUMNS]

    def sent(*revisions: RevisionInfo) -> dict[str, list[object]]:
        columns = advance_columns([(Advance(revision, {}, b"x"), "{}") for revision in revisions])
        return {name: column for name, column in zip(names, columns, strict=True) if column}

    assert sent(plain) == {
        "resource_id": ["r"],
        "parent_revision_id": ["u"],
        "revision_id": ["v"],
        "size": [0],
        "changed_time": [NOW],
        "indexed": ["{}"],
        "payload": [b"x"],
        "copy_head": [copy_head(("u", None, None, None, 0, *[None] * 5), b"x")],
    }
    both = sent(plain, draft)
    assert {name: both[name] for name in ("status", "encoding", "changed_by", "schema_version")} == {
        "status": [None, "draft"],
        "encoding": [None, "msgpack"],
        "changed_by": [None, "bob"],
        "schema_version": [None, "2"],
    }


def test_what_differs_is_sent() -> None:
    later = datetime(2025, 1, 1, tzinfo=UTC)
    meta = replace(META, version=2, revision_count=3, updated_time=later, updated_by="bob", is_deleted=True)
    revision = replace(
        REVISION, revision_id="u", status=RevisionStatus.draft, encoding=Encoding.msgpack, updated_time=later, size=7
    )
    write = StorageWrite(MetaWrite(meta, revision, 1), b"x")
    columns = columns_of([(write, "{}")], update=True)
    names = [name for name, _ in META_COLUMNS] + [f"r_{name}" for name, _ in REVISION_COLUMNS]
    sent = {name: column[0] for name, column in zip(names, columns, strict=False) if column}
    assert sent == {
        "resource_id": "r",
        "current_revision_id": "v",
        "indexed": "{}",
        "revision_count": 3,
        "version": 2,
        "updated_time": later,
        "updated_by": "bob",
        "is_deleted": True,
        "r_revision_id": "u",
        "r_payload_id": "p",
        "r_status": "draft",
        "r_encoding": "msgpack",
        "r_created_time": NOW,
        "r_size": 7,
        "r_created_by": "",
        "r_updated_by": "",
    }


def test_a_row_comes_back() -> None:
    assert meta_of(ROW) == META
    assert meta_with_revision((*ROW, *REVISION_ROW, None)) == (META, REVISION)
    assert full_parts((*ROW, *REVISION_ROW, b"x")) == (META, REVISION, b"x")
    assert full_parts(ROW + (None,) * 12) == (META, None, None)
    head = copy_head((None, "p", None, None, 0, *[None] * 5), b"x")
    assert head is not None
    assert full_parts((*ROW, *[None] * 11, head + b"x")) == (META, REVISION, b"x")


def test_null_stands_for_what_was_said_before() -> None:
    later = datetime(2025, 1, 1, tzinfo=UTC)
    said_once = ("r", "v", 1, 1, NOW, None, "ann", None, False, None, "{}")
    meta, revision = meta_with_revision(
        (*said_once, None, "u", "p", None, None, 7, None, None, None, None, "2", b"payload")
    )
    assert (meta.updated_time, meta.updated_by) == (NOW, "ann")
    assert revision == RevisionInfo(
        resource_id="r",
        revision_id="v",
        parent_revision_id="u",
        payload_id="p",
        size=7,
        created_time=NOW,
        updated_time=NOW,
        created_by="ann",
        updated_by="ann",
        schema_version="2",
    )
    said = ("r", "v", 1, 1, NOW, later, "ann", "bob", False, None, "{}")
    meta, revision = meta_with_revision(
        (*said, None, None, "p", "draft", "msgpack", 7, NOW, None, "ann", None, None, None)
    )
    assert (meta.updated_time, meta.updated_by) == (later, "bob")
    assert revision is not None
    assert (revision.created_time, revision.updated_time) == (NOW, later)
    assert (revision.created_by, revision.updated_by) == ("ann", "bob")
    assert (revision.status, revision.encoding) == ("draft", "msgpack")


@pytest.mark.parametrize("indexed", ["[1]", "{", "7"])
def test_damaged_indexed_fields_are_named(indexed: str) -> None:
    with pytest.raises(DecodeError, match=r"'r' .*permanently_delete") as caught:
        meta_of((*ROW[:10], indexed))
    assert caught.value.resource_id == "r"


@pytest.mark.parametrize("position", [3, 4])
def test_an_unknown_status_or_encoding_is_named(position: int) -> None:
    revision = [*REVISION_ROW]
    revision[position] = "strange"
    with pytest.raises(DecodeError, match="strange"):
        meta_with_revision((*ROW, *revision, None))


@pytest.mark.parametrize("value", ["a\0b", ["x", "\0"], {"k\0": 1}, "\ud800", object()])
def test_what_jsonb_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(InvalidInputError, match="indexed field"):
        encode_indexed({"field": value}, "r")


def test_an_escaped_backslash_is_no_nul() -> None:
    assert msgspec.json.decode(encode_indexed({"field": "\\u0000"}, "r")) == {"field": "\\u0000"}


def test_large_doubles_come_back_as_doubles() -> None:
    digits = "1" + "0" * 300
    meta = meta_of((*ROW[:10], f'{{"a": {digits}, "b": [{digits}, 9223372036854775807], "c": {{"d": -{digits}}}}}'))
    assert meta.indexed_data == {"a": 1e300, "b": [1e300, 2**63 - 1], "c": {"d": -1e300}}
    assert type(meta.indexed_data["a"]) is float
    assert type(meta.indexed_data["b"][1]) is int
