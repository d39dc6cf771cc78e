"""What every backend must do behind a ResourceManager, on asyncio and trio: same calls, same answers, same errors."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest
from msgspec import Struct

from specstar import QB, SpecStar
from specstar.declared_models import DeclaredModels
from specstar.errors import (
    DecodeError,
    DuplicateResourceError,
    InvalidInputError,
    ResourceDeletedError,
    ResourceNotFoundError,
)
from specstar.roles import RevisionStatus
from tests.conformance.managers.users import Address, User, Users

pytestmark = pytest.mark.anyio


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
    with pytest.raises(InvalidInputError, match=r"Expected `int`, got `str` - at `\$\.age` \(in data\[1\]\)$"):
        await users.create_many([User("a"), User("b", "old"), User("c", "older")])  # type: ignore[arg-type]
    assert await users.count() == 121  # with "new"


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
    # The same data seen through a newer, incompatible model.
    strict = DeclaredModels(star._gate, star._bound).declare(Strict, name="people", indexed_fields=["age"])
    bad = await strict.create(Strict(2))
    found = await users.search(sort=["age"])
    assert [item.resource_id for item in found] == [good.resource_id, bad.resource_id]
    assert found[0].data.name == "good"
    with pytest.raises(DecodeError) as caught:
        _ = found[1].data
    assert caught.value.resource_id == bad.resource_id
    with pytest.raises(DecodeError):
        await users.get(bad.resource_id)


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
