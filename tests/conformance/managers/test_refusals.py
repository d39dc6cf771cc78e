"""What every backend must refuse behind a ResourceManager, in the same words, on asyncio and trio."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from specstar import SpecStar
from specstar.errors import (
    InvalidInputError,
    LimitExceededError,
    QueryError,
    ResourceDeletedError,
    ResourceNotFoundError,
    RevisionConflictError,
)
from specstar.resource_manager import ids
from tests.conformance.managers.users import Address, User, Users

pytestmark = pytest.mark.anyio


async def test_ids_that_no_backend_can_keep_are_refused_everywhere(users: Users) -> None:
    wrong: list[Any] = ["", "a\0b", "\ud800", "x" * 1025, "é" * 513, 7]
    for resource_id in wrong:
        for call in (users.get, users.exists, users.get_meta, users.delete, users.restore, users.list_revisions):
            with pytest.raises(InvalidInputError):
                await call(resource_id)
        with pytest.raises(InvalidInputError):
            await users.create(User("a"), resource_id=resource_id)


@pytest.mark.parametrize("expected", ["", "nonsense", "a\0b", "\ud800", "x" * 5000])
async def test_a_condition_that_no_revision_can_meet_is_a_conflict(users: Users, expected: str) -> None:
    first = await users.create(User("a", 1))
    with pytest.raises(RevisionConflictError) as caught:
        await users.update(first.resource_id, User("b"), expected_revision_id=expected)
    assert caught.value.actual_revision_id == first.revision_id
    with pytest.raises(ResourceNotFoundError):
        await users.update("missing", User("b"), expected_revision_id=expected)
    await users.delete(first.resource_id)
    with pytest.raises(ResourceDeletedError):
        await users.update(first.resource_id, User("b"), expected_revision_id=expected)
    with pytest.raises(ResourceDeletedError):
        await users.update(first.resource_id, User("b"), expected_revision_id=first.revision_id)
    assert len(await users.list_revisions(first.resource_id)) == 1


async def test_data_that_does_not_fit_the_model_is_never_stored(users: Users) -> None:
    for wrong in (User("a", age="old"), User(7), {"name": "a", "age": []}, None, 7):  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError):
            await users.create(wrong)  # type: ignore[arg-type]
    info = await users.create(User("a"))
    with pytest.raises(InvalidInputError):
        await users.update(info.resource_id, User("a", age="old"))  # type: ignore[arg-type]
    assert await users.count() == 1


async def test_a_payload_over_the_limit_is_refused(star: SpecStar) -> None:
    small = star.add_model(Address, max_payload_bytes=100)
    with pytest.raises(LimitExceededError) as caught:
        await small.create(Address("x" * 200))
    assert caught.value.limit == 100
    await small.create(Address("x" * 50))


async def test_numbers_that_the_encoding_lacks_are_refused(users: Users, binding: str) -> None:
    for number in (float("nan"), float("inf")):
        if binding == "disk-msgpack":
            with pytest.raises(QueryError, match="cannot be indexed"):
                await users.create(User("a", score=number))
        else:
            with pytest.raises(InvalidInputError, match=r"JSON has no (nan|inf); encoding 'msgpack' keeps it"):
                await users.create(User("a", score=number))


async def test_data_that_cannot_be_indexed_is_refused_after_a_look_at_what_is_there(users: Users) -> None:
    unindexable = User("a", age=1 << 63)
    info = await users.create(User("a"))
    rid, now, other = info.resource_id, info.revision_id, ids.new_id()
    with pytest.raises(QueryError, match="cannot be indexed"):
        await users.create(unindexable)
    for expected in (None, now):
        with pytest.raises(ResourceNotFoundError):
            await users.update("missing", unindexable, expected_revision_id=expected)
        with pytest.raises(QueryError, match="cannot be indexed"):
            await users.update(rid, unindexable, expected_revision_id=expected)
    with pytest.raises(RevisionConflictError):
        await users.update(rid, unindexable, expected_revision_id=other)
    await users.delete(rid)
    for expected in (None, now):
        with pytest.raises(ResourceDeletedError):
            await users.update(rid, unindexable, expected_revision_id=expected)


async def test_fields_that_a_subclass_adds_are_refused(users: Users) -> None:
    class Employee(User):
        salary: int = 0

    class Guest(User):
        pass

    info = await users.create(Guest("Ada"))
    assert (await users.get(info.resource_id)).data == User("Ada")
    for write in (
        lambda: users.create(Employee("Bob", salary=1)),
        lambda: users.create_many([User("Eve"), Employee("Bob")]),
        lambda: users.update(info.resource_id, Employee("Ada")),
    ):
        with pytest.raises(InvalidInputError, match="Employee adds the field 'salary' to User"):
            await write()
    assert await users.count() == 1


async def test_a_status_that_is_none_is_refused(users: Users) -> None:
    wrong: Any = "bogus"
    info = await users.create(User("a"))
    for call in (
        lambda: users.create(User("b"), status=wrong),
        lambda: users.create_many([User("b")], status=wrong),
        lambda: users.update(info.resource_id, User("b"), status=wrong),
        lambda: users.patch(info.resource_id, {}, status=wrong),
        lambda: users.modify(info.resource_id, User("b"), status=wrong),
    ):
        with pytest.raises(InvalidInputError, match="'stable' or 'draft'"):
            await call()


async def test_the_user_and_the_clock_are_checked_where_they_are_set(users: Users) -> None:
    with pytest.raises(InvalidInputError, match="Unicode"), users.using(user="\ud800"):
        pass
    with users.using(now=datetime.now), pytest.raises(InvalidInputError, match="aware"):
        await users.create(User("a"))
    assert await users.search() == []


async def test_users_and_times_of_types_of_their_own_are_kept_as_plain_ones(users: Users) -> None:
    class Name(str):
        __slots__ = ()

    class Time(datetime):
        pass

    with users.using(user=Name("ann"), now=lambda: Time.now(UTC)):
        info = await users.create(User("a"), status="draft")
    with users.using(user=Name("bob"), now=Time.now(UTC)):
        changed = await users.modify(info.resource_id, User("b"))
    assert [type(part) for part in (info.created_time, info.created_by, changed.updated_by)] == [datetime, str, str]
    found = await users.get(info.resource_id)
    assert (found.info.created_time, found.info.created_by) == (info.created_time, "ann")
    assert (found.info.updated_time, found.info.updated_by) == (changed.updated_time, "bob")


async def test_several_are_named_by_any_iterable_and_by_nothing_else(users: Users) -> None:
    wrong: Any
    infos = await users.create_many((User(name) for name in "abc"), resource_ids=(name for name in "abc"))
    ids = [info.resource_id for info in infos]
    assert ids == ["a", "b", "c"]
    found = await users.get_many(resource_id for resource_id in ids)
    assert [one and one.resource_id for one in found] == ids
    assert await users.get_many(iter(())) == []
    for wrong in (None, 5, User("a"), "abc", b"abc", {"name": "a"}):
        with pytest.raises(InvalidInputError, match="data takes a list"):
            await users.create_many(wrong)
        with pytest.raises(InvalidInputError, match="resource_ids takes a list"):
            await users.get_many(wrong)
    wrong = 5
    with pytest.raises(QueryError, match="cursor is text, got int"):
        await users.search(after=wrong)
    with pytest.raises(InvalidInputError, match="user must be a str, not int"), users.using(user=wrong):
        pass


@pytest.mark.parametrize(
    "now",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime(2026, 1, 1),  # noqa: DTZ001
        "2026-01-01T00:00:00Z",
    ],
)
async def test_a_time_that_no_backend_keeps_is_refused(users: Users, now: Any) -> None:
    with pytest.raises(InvalidInputError, match="now must be"), users.using(now=now):
        await users.create(User("never"))
    with users.using(now=lambda: now), pytest.raises(InvalidInputError, match="now must be"):
        await users.create(User("never"))
    assert await users.count() == 0


@pytest.mark.parametrize(
    ("user", "field"),
    [
        (User("nul\0"), "name"),
        (User("a", 2**63), "age"),
        (User("a", tags=["b", "\0"]), "tags"),
        (User("a", address=Address("\0")), "address.city"),
    ],
)
async def test_a_value_that_cannot_be_indexed_is_refused_with_its_field(users: Users, user: User, field: str) -> None:
    made = await users.create(User("a"))
    for change in (users.create(user), users.create_many([user]), users.update(made.resource_id, user)):
        with pytest.raises(InvalidInputError, match=rf" - at `{field}`( \(in data\[0\]\))?$") as caught:
            await change
        assert caught.value.field == field
    assert await users.count() == 1
