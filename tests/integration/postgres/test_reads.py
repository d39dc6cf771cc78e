"""Reads that travel together: one statement, but to each caller its own."""

from __future__ import annotations

import asyncio

import pytest

from specstar.backends.postgres.copies import copy_head
from specstar.errors import DecodeError
from specstar.query import QB, IndexedField, build_query
from specstar.roles import Storage
from tests.integration.postgres.rig import Rig, admin, ids, new


@pytest.fixture
async def storage(rig: Rig) -> Storage:
    storage = rig.storage()
    for resource_id in ids("r", 3):
        await storage.write(new(resource_id))
    return storage


async def test_callers_who_read_one_damaged_row_together_raise_errors_of_their_own(
    storage: Storage, postgres_database: str
) -> None:
    async with admin(postgres_database) as connection:
        await connection.execute("UPDATE \"User_revision\" SET status = 'odd' WHERE resource_id = 'r00001'")
        await connection.execute('UPDATE "User_meta" SET copied_version = NULL')
    wanted = ["r00000", "r00001", "r00002", "r00001", "r00001", "none"]
    found = await asyncio.gather(*(storage.read(resource_id) for resource_id in wanted), return_exceptions=True)
    errors = [entry for entry in found if isinstance(entry, DecodeError)]
    assert len(errors) == 3
    assert len({id(error) for error in errors}) == 3
    assert {error.resource_id for error in errors} == {"r00001"}
    assert [isinstance(entry, BaseException) for entry in found] == [False, True, False, True, True, False]


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("column", ["status", "encoding"])
async def test_a_revision_that_this_version_does_not_know_hides_no_others(
    rig: Rig, postgres_database: str, caplog: pytest.LogCaptureFixture, column: str, copied: bool
) -> None:
    storage = rig.storage(fields=(IndexedField("age"),))
    wanted = list(ids("r", 3))
    for resource_id in wanted:
        await storage.write(new(resource_id, age=5))
    async with admin(postgres_database) as connection:
        if copied:
            head = copy_head(
                (None, None, *(("odd", None) if column == "status" else (None, "odd")), 2, *[None] * 5), b"{}"
            )
            assert head is not None
            await connection.execute(
                "UPDATE \"User_meta\" SET revision_copy = $1 WHERE resource_id = 'r00001'", head + b"{}"
            )
        else:
            await connection.execute(f"UPDATE \"User_revision\" SET {column} = 'odd' WHERE resource_id = 'r00001'")
            await connection.execute('UPDATE "User_meta" SET copied_version = NULL')
    for found in (
        await storage.read_many(wanted),
        await storage.search(build_query()),
        await storage.search(build_query(QB["age"] == 5, limit=10)),
    ):
        assert [entry and (entry.meta.resource_id, entry.payload) for entry in found] == [
            ("r00000", b"{}"),
            ("r00001", b""),
            ("r00002", b"{}"),
        ]
    assert len([record for record in caplog.records if "'r00001' has an unknown" in record.message]) == 3
    with pytest.raises(DecodeError, match="r00001"):
        await storage.read("r00001")


async def test_a_resource_whose_revision_this_version_does_not_know_can_be_erased(
    rig: Rig, postgres_database: str
) -> None:
    """Those erased with it, too; and each tells where its payloads lie, which are with another backend."""
    meta = rig.meta()
    changes = [new(resource_id).change for resource_id in ids("r", 3)]
    for change in changes:
        await meta.write(change)
    async with admin(postgres_database) as connection:
        await connection.execute(
            "UPDATE \"User_revision\" SET status = 'odd', encoding = 'odd' WHERE resource_id = 'r00001'"
        )
    with pytest.raises(DecodeError, match=r"'r00001' has an unknown .* permanently_delete"):
        await meta.list_revisions("r00001")
    erased = await asyncio.gather(*(meta.erase(change.meta.resource_id) for change in changes))
    told = [each.payload_id for revisions in erased for each in revisions or ()]
    assert told == [change.revision.payload_id for change in changes if change.revision is not None]
    assert len(told) == 3
    assert await meta.search(build_query()) == []
