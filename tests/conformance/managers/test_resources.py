"""What every backend must do behind a ResourceManager, on asyncio and trio: same calls, same answers, same errors."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from msgspec import Struct

from specstar import QB, SpecStar
from specstar.errors import (
    DecodeError,
    DuplicateResourceError,
    InvalidInputError,
    LimitExceededError,
    QueryError,
    ResourceDeletedError,
    ResourceNotFoundError,
    RevisionConflictError,
    RevisionStateError,
)
from specstar.query import Query, build_query
from specstar.resource_manager import ResourceManager, ids
from specstar.roles import ResourceMeta, RevisionStatus

pytestmark = pytest.mark.anyio


class Address(Struct, frozen=True):
    city: str = ""
    zip_code: str | None = None


class User(Struct):
    name: str
    age: int = 0
    email: str | None = None
    tags: list[str] = []
    address: Address = Address()
    joined: datetime | None = None
    score: float | None = None
    admin: bool = False


FIELDS = ["name", "age", "email", "tags", "address.city", "joined", "score", "admin"]
Users = ResourceManager[User]


@pytest.fixture
def users(star: SpecStar) -> Users:
    return star.add_model(User, indexed_fields=FIELDS)


async def test_create_then_get_gives_the_same_data_with_its_info_and_meta(users: Users) -> None:
    user = User(
        "Ada", 36, tags=["math"], address=Address("London"), joined=datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    )
    before = datetime.now(UTC)
    info = await users.create(user)
    found = await users.get(info.resource_id)
    assert found.data == user
    assert found.info == info
    assert found.meta.current_revision_id == info.revision_id
    assert (found.meta.revision_count, found.meta.version, found.meta.is_deleted) == (1, 1, False)
    assert before - timedelta(seconds=5) <= found.meta.created_time <= datetime.now(UTC) + timedelta(seconds=5)
    assert found.meta.created_time == found.meta.updated_time == info.created_time
    assert found.meta.indexed_data["address.city"] == "London"
    assert info.parent_revision_id is None
    assert info.status is RevisionStatus.stable
    assert info.size > 0


async def test_ids_are_ordered_by_time_and_unlike(users: Users) -> None:
    ids = [(await users.create(User(str(number)))).resource_id for number in range(50)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 50


async def test_a_given_id_is_kept_and_cannot_be_taken_twice(users: Users) -> None:
    await users.create(User("a"), resource_id="user/../1")
    with pytest.raises(DuplicateResourceError, match="exists already") as caught:
        await users.create(User("b"), resource_id="user/../1")
    assert caught.value.resource_id == "user/../1"
    assert (await users.get("user/../1")).data.name == "a"


TEXTS = [
    "../../etc/passwd",
    "a/b",
    "..",
    ".",
    "con",
    "x" * 1024,
    "é",
    "e\u0301",
    "名前",
    "🐍",
    "'; drop table x; --",
    "%2e%2e",
    "A",
    "a",
    " ",
    "\\",
    '"',
    "\n",
]


async def test_any_text_is_data_as_an_id(users: Users) -> None:
    for text in TEXTS:
        assert (await users.create(User(text), resource_id=text)).resource_id == text
    for text in TEXTS:
        found = await users.get(text)
        assert (found.data.name, found.resource_id) == (text, text)
    assert [item.resource_id for item in await users.search()] == sorted(TEXTS)
    for left, text in enumerate(TEXTS, 1):
        await users.permanently_delete(text)
        assert not await users.exists(text)
        assert await users.count() == len(TEXTS) - left


async def test_ids_that_no_backend_can_keep_are_refused_everywhere(users: Users) -> None:
    wrong: list[Any] = ["", "a\0b", "\ud800", "x" * 1025, "é" * 513, 7]
    for resource_id in wrong:
        for call in (users.get, users.exists, users.get_meta, users.delete, users.restore, users.list_revisions):
            with pytest.raises(InvalidInputError):
                await call(resource_id)
        with pytest.raises(InvalidInputError):
            await users.create(User("a"), resource_id=resource_id)


async def test_what_is_not_there_is_not_found(users: Users) -> None:
    for call in (
        users.get,
        users.get_meta,
        users.delete,
        users.restore,
        users.permanently_delete,
        users.list_revisions,
    ):
        with pytest.raises(ResourceNotFoundError) as caught:
            await call("nobody")
        assert caught.value.resource_id == "nobody"
    with pytest.raises(ResourceNotFoundError):
        await users.update("nobody", User("x"))
    with pytest.raises(ResourceNotFoundError):
        await users.patch("nobody", {"age": 1})
    assert not await users.exists("nobody")
    info = await users.create(User("a"))
    with pytest.raises(ResourceNotFoundError) as missing:
        await users.get(info.resource_id, revision_id="no-such-revision")
    assert missing.value.revision_id == "no-such-revision"


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


async def test_a_deleted_resource_is_hidden_until_it_is_restored(users: Users) -> None:
    info = await users.create(User("a", 1))
    meta = await users.delete(info.resource_id)
    assert meta.is_deleted
    assert not await users.exists(info.resource_id)
    for call in (
        users.get(info.resource_id),
        users.update(info.resource_id, User("b")),
        users.patch(info.resource_id, {"age": 2}),
        users.delete(info.resource_id),
    ):
        with pytest.raises(ResourceDeletedError):
            await call
    assert await users.search() == []
    assert await users.count() == 0
    assert await users.count(include_deleted=True) == 1
    assert (await users.get(info.resource_id, include_deleted=True)).data.age == 1
    assert await users.get_many([info.resource_id]) == [None]
    assert (await users.get_meta(info.resource_id)).is_deleted
    await users.restore(info.resource_id)
    assert (await users.get(info.resource_id)).data.age == 1
    assert not (await users.restore(info.resource_id)).is_deleted


async def test_permanently_deleted_is_gone_with_all_revisions_and_the_id_is_free(users: Users) -> None:
    info = await users.create(User("a"), resource_id="x")
    await users.update("x", User("b"))
    await users.delete("x")
    await users.permanently_delete("x")
    with pytest.raises(ResourceNotFoundError):
        await users.get_meta("x")
    again = await users.create(User("c"), resource_id="x")
    assert again.revision_id != info.revision_id
    assert [entry.revision_id for entry in await users.list_revisions("x")] == [again.revision_id]


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


async def test_many_at_once(users: Users) -> None:
    infos = await users.create_many([User(f"user {number}", number) for number in range(120)])
    ids = [info.resource_id for info in infos]
    found = await users.get_many([*reversed(ids), "nobody"])
    assert [item.data.age if item else None for item in found] == [*range(119, -1, -1), None]
    assert await users.create_many([]) == []
    assert await users.get_many([]) == []
    with pytest.raises(DuplicateResourceError):
        await users.create_many([User("new"), User("old")], resource_ids=["new", ids[0]])
    assert await users.exists("new")
    with pytest.raises(InvalidInputError):
        await users.create_many([User("a"), User("b")], resource_ids=["same", "same"])


async def test_concurrent_callers_each_get_their_own_result_or_error(users: Users) -> None:
    results: dict[int, str] = {}

    async def work(number: int) -> None:
        try:
            info = await users.create(User(f"user {number}", number), resource_id=f"user-{number % 150}")
            found = await users.get(info.resource_id)
            results[number] = "made" if found.data.age == number else "mixed up"
        except DuplicateResourceError:
            results[number] = "duplicate"

    async with anyio.create_task_group() as group:
        for number in range(200):
            group.start_soon(work, number)
    assert sorted(results.values()) == ["duplicate"] * 50 + ["made"] * 150
    assert await users.count() == 150


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


async def test_large_payloads_come_back_whole(users: Users) -> None:
    name = "né" * 500_000
    info = await users.create(User(name))
    assert (await users.get(info.resource_id)).data.name == name
    await users.update(info.resource_id, User(name + "!"))
    assert len((await users.get(info.resource_id)).data.name) == 1_000_001


async def test_the_author_and_the_time_are_recorded_with_writes(users: Users) -> None:
    when = datetime(2031, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    with users.using(user="alice"):
        info = await users.create(User("a"))
    with users.using(user="bob", now=when):
        changed = await users.update(info.resource_id, User("b"))
    meta = await users.get_meta(info.resource_id)
    assert (info.created_by, meta.created_by, meta.updated_by) == ("alice", "alice", "bob")
    assert (changed.created_time, meta.updated_time) == (when, when)
    assert (await users.create(User("c"))).created_by == ""


async def seed(users: Users) -> dict[str, str]:
    people = [
        User(
            "Ada",
            36,
            "ada@example.org",
            ["math", "poetry"],
            Address("London"),
            datetime(2020, 1, 1, tzinfo=UTC),
            9.5,
            True,
        ),
        User("Bob", 18, None, [], Address("Paris"), datetime(2021, 1, 1, tzinfo=UTC), None),
        User("Čeněk", 70, "c@example.org", ["math"], Address("Praha"), None, -1.0),
        User(
            "ada", 7, "x%y_z@example.org", ["a%b"], Address("london"), datetime(2020, 1, 1, 0, 0, 0, 1, tzinfo=UTC), 0.0
        ),
        User("🐍", 0, "", ["math", "🐍"], Address(""), None, 36.0),
    ]
    infos = await users.create_many(people)
    return {person.name: info.resource_id for person, info in zip(people, infos, strict=True)}


QUERIES: list[tuple[Any, list[str]]] = [
    (QB["age"] >= 18, ["Ada", "Bob", "Čeněk"]),
    (QB["age"] > 18, ["Ada", "Čeněk"]),
    (QB["age"] == 36, ["Ada"]),
    (QB["age"] == 36.0, ["Ada"]),
    (QB["age"] == "36", []),
    (QB["age"] != 36, ["Bob", "Čeněk", "ada", "🐍"]),
    (QB["age"].between(7, 36), ["Ada", "Bob", "ada"]),
    (QB["age"].in_([0, 7, "18"]), ["ada", "🐍"]),
    (QB["name"].in_(["Ada", "🐍", "nobody"]), ["Ada", "🐍"]),
    (QB["name"] == "Ada", ["Ada"]),
    (QB["name"] < "a", ["Ada", "Bob"]),
    (QB["name"].starts_with("A"), ["Ada"]),
    (QB["name"].starts_with("Č"), ["Čeněk"]),
    (QB["name"].starts_with(""), ["Ada", "Bob", "Čeněk", "ada", "🐍"]),
    (QB["name"].ends_with("da"), ["Ada", "ada"]),
    (QB["name"].contains("d"), ["Ada", "ada"]),
    (QB["email"].contains("%y_"), ["ada"]),
    (QB["email"].ends_with("@example.org"), ["Ada", "Čeněk", "ada"]),
    (QB["tags"].contains("math"), ["Ada", "Čeněk", "🐍"]),
    (QB["tags"].contains("mat"), []),
    (QB["tags"].contains("🐍"), ["🐍"]),
    (QB["name"].regex("^[A-Z][a-z]+$"), ["Ada", "Bob"]),
    (QB["name"].regex("d"), ["Ada", "ada"]),
    (QB["email"].is_null(), ["Bob"]),
    (QB["email"].is_null(False), ["Ada", "Čeněk", "ada", "🐍"]),
    (QB["email"] == None, ["Bob"]),  # noqa: E711
    (QB["email"] == "", ["🐍"]),
    (QB["address"]["city"] == "London", ["Ada"]),
    (QB["address.city"].starts_with("P"), ["Bob", "Čeněk"]),
    (QB["joined"] >= datetime(2020, 1, 1, 0, 0, 0, 1, tzinfo=UTC), ["Bob", "ada"]),
    (QB["joined"] == datetime(2020, 1, 1, tzinfo=UTC), ["Ada"]),
    (QB["score"] < 0, ["Čeněk"]),
    (QB["admin"] == True, ["Ada"]),  # noqa: E712
    (QB["admin"] == 1, []),
    ((QB["age"] >= 18) & QB["name"].starts_with("A"), ["Ada"]),
    ((QB["age"] < 10) | (QB["name"] == "Bob"), ["Bob", "ada", "🐍"]),
    (~(QB["age"] >= 18), ["ada", "🐍"]),
    (~QB["email"].contains("example"), ["Bob", "🐍"]),
    (QB["revision_count"] == 1, ["Ada", "Bob", "Čeněk", "ada", "🐍"]),
    (QB["created_time"] > datetime(2001, 1, 1, tzinfo=UTC), ["Ada", "Bob", "Čeněk", "ada", "🐍"]),
    (QB["created_time"] < datetime(2001, 1, 1, tzinfo=UTC), []),
]


async def test_search_means_the_same_everywhere(users: Users) -> None:
    await seed(users)
    wrong: list[str] = []
    for query, names in QUERIES:
        found = sorted(item.data.name for item in await users.search(query))
        count = await users.count(query)
        if found != sorted(names) or count != len(names):
            wrong.append(f"{query}: found {found}, counted {count}, not {sorted(names)}")
    assert wrong == []


ORDERS: list[tuple[list[str], list[str] | None]] = [
    (["age"], ["🐍", "ada", "Bob", "Ada", "Čeněk"]),
    (["-age"], ["Čeněk", "Ada", "Bob", "ada", "🐍"]),
    (["name"], ["Ada", "Bob", "ada", "Čeněk", "🐍"]),
    (["-name"], ["🐍", "Čeněk", "ada", "Bob", "Ada"]),
    (["email"], ["Bob", "🐍", "Ada", "Čeněk", "ada"]),
    (["-email"], ["ada", "Čeněk", "Ada", "🐍", "Bob"]),
    (["score", "name"], ["Bob", "Čeněk", "ada", "Ada", "🐍"]),
    (["joined", "-age"], ["Čeněk", "🐍", "Ada", "ada", "Bob"]),
    (["admin", "name"], ["Bob", "ada", "Čeněk", "🐍", "Ada"]),
    (["created_time"], None),
    ([], None),
]


async def check_order(users: Users, ids: dict[str, str], sort: list[str], names: list[str] | None) -> None:
    everything = await users.search(sort=sort)
    order = [item.data.name for item in everything]
    if names is not None:
        assert order == names
    else:
        assert [item.resource_id for item in everything] == sorted(ids.values())
    assert everything.cursor is None
    assert [item.data.name for item in await users.search(sort=sort, limit=2)] == order[:2]
    assert [item.data.name for item in await users.search(sort=sort, limit=2, offset=2)] == order[2:4]
    assert [item.data.name for item in await users.search(sort=sort, offset=4)] == order[4:]
    paged: list[str] = []
    after = None
    for _ in range(10):
        page = await users.search(sort=sort, limit=2, after=after)
        paged += [item.data.name for item in page]
        after = page.cursor
        if after is None:
            break
    assert paged == order
    assert [item.data.name async for item in users.iter(sort=sort, page_size=3)] == order


async def test_sorting_limit_offset_and_keyset_agree(users: Users) -> None:
    ids = await seed(users)
    for sort, names in ORDERS:
        await check_order(users, ids, sort, names)


async def test_keyset_paging_is_steady_while_others_write(users: Users) -> None:
    await users.create_many([User(f"{number:03}", number) for number in range(30)])
    first = await users.search(sort=["age"], limit=10)
    await users.create(User("intruder", 3))
    second = await users.search(sort=["age"], limit=10, after=first.cursor)
    assert [item.data.age for item in second] == list(range(10, 20))


async def test_wrong_queries_are_refused(users: Users) -> None:
    await seed(users)
    with pytest.raises(QueryError, match="agee") as caught:
        await users.search(QB["agee"] == 1)
    assert caught.value.suggestion == "age"
    for wrong in (
        users.search(sort=["nothing"]),
        users.search(limit=-1),
        users.search(offset=-1),
        users.search(after="garbage"),
    ):
        with pytest.raises(QueryError):
            await wrong
    builders: list[Callable[[], Any]] = [
        lambda: QB["name"].regex("("),
        lambda: QB["name"] == "a\0b",
        lambda: QB["name"].regex("(?=a)"),
    ]
    for build in builders:
        with pytest.raises(QueryError):
            await users.search(build())
    cursor = (await users.search(sort=["age"], limit=1)).cursor
    with pytest.raises(QueryError):
        await users.search(sort=["name"], limit=1, after=cursor)


async def test_models_do_not_see_each_other(star: SpecStar) -> None:
    left = star.add_model(User, name="left " + "x" * 200, indexed_fields=["age"])
    right = star.add_model(User, name="left " + "x" * 200 + "!", indexed_fields=["name"])
    weird = star.add_model(User, name='we"ird/../name; drop', indexed_fields=[])
    await left.create(User("l", 1), resource_id="same")
    await right.create(User("r", 2), resource_id="same")
    await weird.create(User("w", 3), resource_id="same")
    assert [(await each.get("same")).data.name for each in (left, right, weird)] == ["l", "r", "w"]
    assert await left.count(QB["age"] == 1) == 1
    await left.permanently_delete("same")
    assert await right.exists("same")


async def test_a_payload_of_another_model_raises_with_its_id_and_hides_nothing_else(star: SpecStar) -> None:
    class Strict(Struct):
        age: int

    users = star.add_model(User, name="people", indexed_fields=["age"])
    good = await users.create(User("good", 1))
    other = SpecStar()
    other._gate = star._gate
    other._factory = star._factory
    # The same data seen through a newer, incompatible model.
    strict = other.add_model(Strict, name="people", indexed_fields=["age"])
    bad = await strict.create(Strict(2))
    found = await users.search(sort=["age"])
    assert [item.resource_id for item in found] == [good.resource_id, bad.resource_id]
    assert found[0].data.name == "good"
    with pytest.raises(DecodeError) as caught:
        _ = found[1].data
    assert caught.value.resource_id == bad.resource_id
    with pytest.raises(DecodeError):
        await users.get(bad.resource_id)


async def test_indexed_search_uses_an_index(users: Users) -> None:
    await users.create_many([User(f"user {number}", number) for number in range(500)])
    plan = await users.explain(QB["age"] == 250, limit=20)
    assert plan


async def test_closing_and_calling_again_opens_again(star: SpecStar, users: Users, durable: bool) -> None:
    info = await users.create(User("a", 1))
    await star.aclose()
    if durable:
        assert (await users.get(info.resource_id)).data == User("a", 1)
        assert await users.count(QB["age"] == 1) == 1
        await users.update(info.resource_id, User("a", 2))
        assert (await users.get(info.resource_id)).meta.revision_count == 2
    else:
        assert not await users.exists(info.resource_id)


async def test_garbage_collection_spares_what_is_referenced(users: Users) -> None:
    infos = [await users.create(User("x" * 200_000, number), status="draft") for number in range(3)]
    await users.modify(infos[0].resource_id, User("y" * 200_000, 9))
    await users.permanently_delete(infos[1].resource_id)
    assert await users.collect_garbage(older_than_seconds=0) == 0
    assert (await users.get(infos[0].resource_id)).data.age == 9
    assert (await users.get(infos[2].resource_id)).data.age == 2


async def test_searches_of_one_shape_at_once_each_get_their_own_answer(users: Users) -> None:
    long = "n" * 3000
    made = await users.create_many(
        [User(f"name{number % 7}", number % 5, tags=["t"]) for number in range(60)]
        + [User(long + "1", 100), User(long + "2", 100)]
    )
    await users.delete(made[0].resource_id)
    await users.search(QB["age"] == 0, limit=1)
    wrong: list[Any] = []

    async def find(condition: Any, limit: int, matches: Callable[[int], bool]) -> None:
        expected = [info.resource_id for number, info in enumerate(made) if number and matches(number)][:limit]
        page = await users.search(condition, limit=limit)
        if [entry.resource_id for entry in page] != expected:
            wrong.append((condition, limit, [entry.resource_id for entry in page], expected))

    async with anyio.create_task_group() as group:
        for number in range(45):
            age, name = number % 7, f"name{number % 9}"
            group.start_soon(
                find, QB["age"] == age, 1 + number % 3, lambda at, age=age: at < 60 and at % 5 == age and age < 5
            )
            group.start_soon(
                find,
                QB["name"] == name,
                100,
                lambda at, name=name: at < 60 and f"name{at % 7}" == name,
            )
        for end in ("1", "2", "3"):
            group.start_soon(find, QB["name"] == long + end, 10, lambda at, end=end: at == 59 + int(end) and end != "3")
        group.start_soon(find, QB["age"] == "0", 10, lambda at: False)
        group.start_soon(find, QB["admin"] == False, 100, lambda at: True)  # noqa: E712  a condition
    assert not wrong


async def test_erasing_beside_a_writer_leaves_nothing_of_it(users: Users) -> None:
    for number in range(12):
        info = await users.create(User("secret"), resource_id=f"r{number}")

        async def write(info: Any = info) -> None:
            with contextlib.suppress(ResourceNotFoundError):
                await users.update(info.resource_id, User("secret too"))

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            group.start_soon(users.permanently_delete, info.resource_id)
        with pytest.raises(ResourceNotFoundError):
            await users.list_revisions(info.resource_id)


async def test_a_conditional_erase_beside_a_change_that_is_no_revision_is_no_conflict(users: Users) -> None:
    for number in range(8):
        info = await users.create(User("a"), resource_id=f"r{number}")

        async def hide(info: Any = info) -> None:
            with contextlib.suppress(ResourceNotFoundError):
                await users.delete(info.resource_id)

        async def erase(info: Any = info) -> None:
            await users.permanently_delete(info.resource_id, expected_revision_id=info.revision_id)

        async with anyio.create_task_group() as group:
            group.start_soon(hide)
            group.start_soon(erase)
        assert not await users.exists(info.resource_id)


async def test_a_whole_query_can_be_iterated_and_says_all_by_itself(users: Users) -> None:
    await users.create_many([User("a", age) for age in range(7)])

    async def ages(query: Query, **options: Any) -> list[int]:
        return [user.data.age async for user in users.iter(query, **options)]

    assert await ages(build_query(QB["age"] >= 2, sort="age"), page_size=2) == [2, 3, 4, 5, 6]
    assert await ages(build_query(sort="-age", limit=3), page_size=2) == [6, 5, 4]
    assert await ages(build_query(sort="age", limit=4, offset=2), page_size=3) == [2, 3, 4, 5]
    assert await ages(build_query(limit=0)) == []
    first = await users.search(build_query(sort="age", limit=2))
    assert await ages(build_query(sort="age", after=first.cursor), page_size=2) == [2, 3, 4, 5, 6]
    for wrong in ({"sort": ["age"]}, {"limit": 1}, {"offset": 1}, {"include_deleted": True}):
        with pytest.raises(QueryError, match="make them part of it"):
            await users.search(build_query(QB["age"] > 1), **wrong)
    for size in (0, -1, "9"):
        with pytest.raises(QueryError, match="page_size"):
            await ages(build_query(), page_size=size)


async def test_pages_go_on_behind_what_was_erased_or_changed_meanwhile(users: Users) -> None:
    # Payloads that travel alone: they are read after the rows.
    big = "x" * 200_000
    infos = await users.create_many([User(big, age) for age in range(12)], status="draft")
    seen: list[int] = []

    async def disturb() -> None:
        await users.permanently_delete(infos[3].resource_id)
        await users.modify(infos[7].resource_id, User(big, 999))

    async with anyio.create_task_group() as group:
        group.start_soon(disturb)
        async for user in users.iter(QB["age"] < 900, sort=["age"], page_size=4):
            seen.append(user.data.age)
    assert [age for age in seen if age not in {3, 7}] == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    assert 999 not in seen


async def test_what_is_indexed_is_what_is_read_back(users: Users) -> None:
    plain: Any = {"name": "Ada", "joined": "2024-05-01T12:00:00+02:00"}
    info = await users.create(plain)
    moment = datetime(2024, 5, 1, 10, tzinfo=UTC)
    assert (await users.get(info.resource_id)).data == User("Ada", joined=moment)
    assert [found.resource_id for found in await users.search(QB["joined"] == moment)] == [info.resource_id]
    other: Any = {"name": "Bob", "joined": "2025-05-01T12:00:00+02:00"}
    await users.update(info.resource_id, other)
    assert await users.count(QB["joined"] == datetime(2025, 5, 1, 10, tzinfo=UTC)) == 1


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


async def test_a_field_that_is_new_finds_older_resources_once_they_are_indexed_anew(
    backend: dict[str, Any], durable: bool
) -> None:
    def configured(fields: list[str]) -> tuple[SpecStar, Users]:
        spec = SpecStar()
        spec.configure(backend=backend)
        return spec, spec.add_model(User, indexed_fields=fields)

    spec, users = configured(["age"])
    async with spec:
        infos = await users.create_many([User(f"user {number % 3}", number) for number in range(450)])
        await users.delete(infos[3].resource_id)
        if not durable:
            assert await users.reindex() == 0
            return
    spec, users = configured(["age", "name"])
    async with spec:
        assert await users.search(QB["name"] == "user 0") == []
        before = await users.get(infos[0].resource_id)
        assert await users.reindex() == 450
        assert await users.reindex() == 0
        assert await users.count(QB["name"] == "user 0") == 149
        assert await users.count(QB["name"] == "user 0", include_deleted=True) == 150
        after = await users.get(infos[0].resource_id)
        assert (after.data, after.info, after.meta.updated_time) == (before.data, before.info, before.meta.updated_time)
        info = await users.update(infos[0].resource_id, User("new"), expected_revision_id=infos[0].revision_id)
        assert (await users.get(infos[0].resource_id)).info == info


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


async def test_a_query_is_counted_as_it_is_searched(users: Users) -> None:
    infos = await users.create_many([User("a", number) for number in range(4)])
    await users.delete(infos[0].resource_id)
    for query in (
        Query(),
        Query(include_deleted=True),
        build_query(QB["age"] < 3, sort="-age", include_deleted=True),
        build_query(QB["age"] < 3),
    ):
        assert await users.count(query) == len(await users.search(query))
    assert await users.count(Query(include_deleted=True)) == 4
    cursor = (await users.search(limit=1)).cursor
    for query in (Query(limit=3), Query(offset=2), Query(after=cursor)):
        with pytest.raises(QueryError, match="without limit, offset and after"):
            await users.count(query)
    with pytest.raises(QueryError, match="make them part of it"):
        await users.count(Query(), include_deleted=True)


async def test_indexed_data_belongs_to_whom_it_was_handed(users: Users) -> None:
    def spoil(meta: ResourceMeta) -> None:
        meta.indexed_data["age"] = 99
        meta.indexed_data["tags"].append("x")

    info = await users.create(User("a", 1, tags=["t"]))
    before = (await users.get_meta(info.resource_id)).indexed_data
    second = await users.update(info.resource_id, User("a", 1, tags=["t"]))
    [in_many] = await users.get_many([info.resource_id])
    assert in_many is not None
    for meta in (
        (await users.get(info.resource_id)).meta,
        (await users.search())[0].meta,
        in_many.meta,
        await users.get_meta(info.resource_id),
        await users.delete(info.resource_id),
        await users.restore(info.resource_id),
        await users.restore(info.resource_id),
        await users.switch(info.resource_id, info.revision_id),
        await users.switch(info.resource_id, second.revision_id),
        await users.switch(info.resource_id, second.revision_id),
    ):
        spoil(meta)
    await users.delete(info.resource_id)
    await users.restore(info.resource_id)
    assert (await users.get(info.resource_id)).meta.indexed_data == before
    assert await users.count(QB["age"] == 99) == 0


async def test_a_resource_that_cannot_be_indexed_does_not_keep_the_others_from_it(
    backend: dict[str, Any], durable: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not durable:
        return  # nothing older than its indexed fields
    older = SpecStar()
    older.configure(backend=backend)
    plain = older.add_model(User)
    spec = SpecStar()
    spec.configure(backend=backend)
    users = spec.add_model(User, indexed_fields=["name", "age"])
    async with older, spec:
        infos = await plain.create_many([User("a"), User("nul\0"), User("b", 2**63), User("c"), User("d")])
        storage = users._slot.storage
        find = storage.find

        async def meanwhile(query: Any) -> Any:
            found = await find(query)
            await plain.update(infos[3].resource_id, User("\0"))
            return found

        monkeypatch.setattr(storage, "find", meanwhile)
        assert await users.reindex() == 2
        monkeypatch.undo()
        assert sorted(found.data.name for found in await users.search(QB["name"] >= "")) == ["a", "d"]
    for number in (1, 2, 3):
        assert f"resource {infos[number].resource_id!r} is not indexed anew" in caplog.text


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
        with pytest.raises(InvalidInputError, match=f" - at `{field}`$") as caught:
            await change
        assert caught.value.field == field
    assert await users.count() == 1
