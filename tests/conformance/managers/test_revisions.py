"""Revisions behind a ResourceManager: conditional writes, drafts, switching and their order, on every backend."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from specstar import QB
from specstar.errors import (
    DuplicateResourceError,
    InvalidInputError,
    ResourceDeletedError,
    ResourceNotFoundError,
    RevisionConflictError,
    RevisionStateError,
)
from specstar.resource_manager import ids
from specstar.roles import RevisionStatus
from tests.conformance.managers.users import Address, User, Users

pytestmark = pytest.mark.anyio


async def test_update_adds_a_revision_and_the_old_one_stays_readable(users: Users) -> None:
    first = await users.create(User("a", 1))
    second = await users.update(first.resource_id, User("a", 2))
    third = await users.update(first.resource_id, User("a", 3), expected_revision_id=second.revision_id)
    assert second.parent_revision_id == first.revision_id
    assert third.parent_revision_id == second.revision_id
    found = await users.get(first.resource_id)
    assert (found.data.age, found.meta.revision_count, found.meta.version) == (3, 3, 3)
    assert found.meta.created_time == first.created_time
    assert found.meta.updated_time >= second.created_time
    assert (await users.get(first.resource_id, revision_id=first.revision_id)).data.age == 1
    assert [info.revision_id for info in await users.list_revisions(first.resource_id)] == [
        first.revision_id,
        second.revision_id,
        third.revision_id,
    ]


async def test_upsert_creates_or_adds_a_revision(users: Users) -> None:
    first = await users.upsert("one", User("a", 1))
    second = await users.upsert("one", User("a", 2), status="draft")
    found = await users.get("one")
    assert (found.data.age, found.meta.revision_count) == (2, 2)
    assert second.parent_revision_id == first.revision_id
    assert second.status is RevisionStatus.draft
    with pytest.raises(InvalidInputError):
        await users.upsert("two", User("a", "old"))  # type: ignore[arg-type]
    assert not await users.exists("two")
    await users.delete("one")
    with pytest.raises(ResourceDeletedError):
        await users.upsert("one", User("a", 3))
    await users.permanently_delete("one")
    assert (await users.upsert("one", User("a", 4))).parent_revision_id is None


async def test_many_upserts_of_one_resource_at_once_are_all_revisions(users: Users) -> None:
    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(users.upsert, "one", User("a", number))
    revisions = await users.list_revisions("one")
    assert len(revisions) == 20
    assert sorted([(await users.get("one", revision_id=each.revision_id)).data.age for each in revisions]) == [
        *range(20)
    ]
    assert sum(each.parent_revision_id is None for each in revisions) == 1


async def test_upsert_beside_one_who_creates_and_erases_it(users: Users) -> None:
    async def others() -> None:
        for _ in range(20):
            with contextlib.suppress(DuplicateResourceError):
                await users.create(User("theirs", 0), resource_id="one")
            with contextlib.suppress(ResourceNotFoundError):
                await users.permanently_delete("one")

    async with anyio.create_task_group() as group:
        group.start_soon(others)
        for number in range(20):
            await users.upsert("one", User("mine", number))
    last = await users.upsert("one", User("mine", 99))
    assert (await users.get("one")).revision_id == last.revision_id


async def test_a_lost_race_raises_and_overwrites_nothing(users: Users) -> None:
    first = await users.create(User("a", 1))
    second = await users.update(first.resource_id, User("a", 2))
    for call in (
        users.update(first.resource_id, User("a", 9), expected_revision_id=first.revision_id),
        users.patch(first.resource_id, {"age": 9}, expected_revision_id=first.revision_id),
        users.delete(first.resource_id, expected_revision_id=first.revision_id),
        users.switch(first.resource_id, second.revision_id, expected_revision_id=first.revision_id),
        users.permanently_delete(first.resource_id, expected_revision_id=first.revision_id),
    ):
        with pytest.raises(RevisionConflictError) as caught:
            await call
        assert caught.value.expected_revision_id == first.revision_id
        assert caught.value.actual_revision_id == second.revision_id
    found = await users.get(first.resource_id)
    assert (found.data.age, found.meta.version) == (2, 2)


async def test_a_conditional_update_records_what_an_update_after_a_read_does(users: Users) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with users.using(user="ann", now=tomorrow):
        first = await users.create(User("a", 1))
    with users.using(user="bob"):
        info = await users.update(
            first.resource_id, User("b", 2), expected_revision_id=first.revision_id, status="draft"
        )
    found = await users.get(first.resource_id)
    assert found.info == info
    assert (info.parent_revision_id, info.status) == (first.revision_id, RevisionStatus.draft)
    assert (info.created_by, found.meta.created_by, found.meta.updated_by) == ("bob", "ann", "bob")
    assert (found.meta.revision_count, found.meta.version) == (2, (await users.get_meta(first.resource_id)).version)
    # Time never runs backwards for a resource, whatever a writer's clock says.
    assert info.created_time == info.updated_time == found.meta.updated_time == tomorrow
    assert [entry.data.name for entry in await users.search(QB["age"] == 2, limit=5)] == ["b"]
    assert not await users.search(QB["age"] == 1, limit=5)
    assert await users.list_revisions(first.resource_id) == [first, info]
    # The next change is decided on the row as it is now.
    assert (await users.modify(first.resource_id, User("c", 3))).revision_id == info.revision_id
    assert (await users.update(first.resource_id, User("d", 4))).parent_revision_id == info.revision_id


async def test_of_many_conditional_updates_exactly_one_wins(users: Users) -> None:
    first = await users.create(User("a", 0))
    won: list[int] = []
    lost: list[int] = []

    async def race(number: int) -> None:
        try:
            await users.update(first.resource_id, User("a", number), expected_revision_id=first.revision_id)
            won.append(number)
        except RevisionConflictError:
            lost.append(number)

    async with anyio.create_task_group() as group:
        for number in range(1, 21):
            group.start_soon(race, number)
    assert len(won) == 1
    assert len(lost) == 19
    found = await users.get(first.resource_id)
    assert found.data.age == won[0]
    assert len(await users.list_revisions(first.resource_id)) == 2


async def test_unconditional_patches_of_many_tasks_are_all_applied(users: Users) -> None:
    info = await users.create(User("a"))
    fields = ["name", "email", "age", "score", "admin"]
    values: list[Any] = ["b", "b@example.org", 5, 1.5, True]

    async def patch(field: str, value: Any) -> None:
        await users.patch(info.resource_id, {field: value})

    async with anyio.create_task_group() as group:
        for field, value in zip(fields, values, strict=True):
            group.start_soon(patch, field, value)
    found = await users.get(info.resource_id)
    assert [getattr(found.data, field) for field in fields] == values
    assert found.meta.revision_count == 6


async def test_patch_merges_nested_objects_and_null_removes(users: Users) -> None:
    info = await users.create(User("a", 3, email="a@example.org", address=Address("Paris", "75000")))
    await users.patch(info.resource_id, {"email": None, "address": {"city": "Lyon"}, "tags": ["x", "y"]})
    data = (await users.get(info.resource_id)).data
    assert data == User("a", 3, tags=["x", "y"], address=Address("Lyon", "75000"))
    with pytest.raises(InvalidInputError, match="age"):
        await users.patch(info.resource_id, {"age": "old"})
    with pytest.raises(InvalidInputError, match="name"):
        await users.patch(info.resource_id, {"name": None})
    with pytest.raises(InvalidInputError, match=r"no field 'agee' \(did you mean 'age'\?\)"):
        await users.patch(info.resource_id, {"agee": 5})
    assert (await users.get(info.resource_id)).meta.revision_count == 2


async def test_drafts_are_rewritten_in_place_and_stable_revisions_never(users: Users) -> None:
    draft = await users.create(User("a", 1), status="draft")
    again = await users.modify(draft.resource_id, User("a", 2))
    assert again.revision_id == draft.revision_id
    assert again.payload_id != draft.payload_id
    found = await users.get(draft.resource_id)
    assert (found.data.age, found.meta.revision_count, found.meta.version) == (2, 1, 2)
    assert found.info.status is RevisionStatus.draft
    assert await users.count(QB["age"] == 2) == 1
    final = await users.modify(draft.resource_id, User("a", 3), status="stable")
    assert final.status is RevisionStatus.stable
    with pytest.raises(RevisionStateError, match="stable: use update"):
        await users.modify(draft.resource_id, User("a", 4))
    assert (await users.get(draft.resource_id)).data.age == 3
    assert len(await users.list_revisions(draft.resource_id)) == 1


async def test_switch_makes_an_earlier_revision_current_and_searchable(users: Users) -> None:
    first = await users.create(User("a", 1))
    second = await users.update(first.resource_id, User("a", 2))
    await users.switch(first.resource_id, first.revision_id)
    assert (await users.get(first.resource_id)).data.age == 1
    assert await users.count(QB["age"] == 1) == 1
    branch = await users.update(first.resource_id, User("a", 3))
    assert branch.parent_revision_id == first.revision_id
    assert len(await users.list_revisions(first.resource_id)) == 3
    with pytest.raises(ResourceNotFoundError):
        await users.switch(first.resource_id, "nothing")
    await users.switch(first.resource_id, second.revision_id)
    assert (await users.get(first.resource_id)).data.age == 2


async def test_revisions_are_listed_in_the_order_of_their_writes(users: Users) -> None:
    for number in range(8):
        first = await users.create(User("a"), resource_id=f"r{number}")
        second = await users.update(first.resource_id, User("b"), expected_revision_id=first.revision_id)
        written: list[str] = [first.revision_id, second.revision_id]

        async def plain(info: Any = first, written: list[str] = written) -> None:
            written.append((await users.update(info.resource_id, User("c"))).revision_id)

        async def back(info: Any = first, revision_id: str = second.revision_id) -> None:
            await users.switch(info.resource_id, revision_id)

        async def conditional(info: Any = second, written: list[str] = written) -> None:
            with contextlib.suppress(RevisionConflictError):
                update = users.update(info.resource_id, User("d"), expected_revision_id=info.revision_id)
                written.append((await update).revision_id)

        async with anyio.create_task_group() as group:
            for each in (plain, back, conditional):
                group.start_soon(each)
        listed = await users.list_revisions(first.resource_id)
        assert sorted(written) == [info.revision_id for info in listed]
        assert [info.created_time for info in listed] == sorted(info.created_time for info in listed)


@contextlib.contextmanager
def clock_that_is_ahead(users: Users, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in another process: the clock of this one is not moved on."""
    with monkeypatch.context() as ahead, users.using(now=lambda: datetime.now(UTC) + timedelta(minutes=1)):
        ahead.setattr(ids, "_last_stamp", ids._last_stamp)
        ahead.setattr(ids, "time_ns", lambda: time.time_ns() + 60 * 10**9)
        yield


@pytest.mark.parametrize("conditional", [False, True])
async def test_a_revision_is_listed_behind_one_that_was_written_by_a_clock_that_is_ahead(
    users: Users, monkeypatch: pytest.MonkeyPatch, conditional: bool
) -> None:
    with clock_that_is_ahead(users, monkeypatch):
        first = await users.create(User("first"))
    expected = first.revision_id if conditional else None
    second = await users.update(first.resource_id, User("second"), expected_revision_id=expected)
    third = await users.update(first.resource_id, User("third"))
    listed = await users.list_revisions(first.resource_id)
    assert [info.revision_id for info in listed] == [first.revision_id, second.revision_id, third.revision_id]


async def test_a_revision_is_listed_behind_one_of_a_clock_that_is_ahead_also_after_a_switch(
    users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = [first := await users.create(User("first"))]
    with clock_that_is_ahead(users, monkeypatch):
        written.append(await users.update(first.resource_id, User("ahead")))
    written += [await users.update(first.resource_id, User("behind", number)) for number in range(10)]
    await users.switch(first.resource_id, first.revision_id)
    written.append(await users.update(first.resource_id, User("last")))
    listed = await users.list_revisions(first.resource_id)
    assert [info.revision_id for info in listed] == [info.revision_id for info in written]
