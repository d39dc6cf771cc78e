"""What search, pages and indexes must do behind a ResourceManager, on every backend, on asyncio and trio."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from specstar import QB, SpecStar
from specstar.errors import (
    QueryError,
)
from specstar.query import Query, build_query
from specstar.roles import ResourceMeta
from tests.conformance.managers.users import Address, User, Users

pytestmark = pytest.mark.anyio


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


async def test_indexed_search_uses_an_index(users: Users) -> None:
    await users.create_many([User(f"user {number}", number) for number in range(500)])
    plan = await users.explain(QB["age"] == 250, limit=20)
    assert plan


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


async def test_a_field_that_is_new_finds_older_resources_once_they_are_indexed_anew(
    backend: dict[str, Any], durable: bool
) -> None:
    def configured(fields: list[str]) -> tuple[SpecStar, Users]:
        spec = SpecStar()
        spec.configure(backend=backend)
        return spec, spec.add_model(User, indexed_fields=fields)

    spec, users = configured(["age"])
    async with spec:
        infos = await users.create_many([User(f"user {number % 3}", number) for number in range(210)])
        await users.delete(infos[3].resource_id)
        if not durable:
            assert await users.reindex() == 0
            return
    spec, users = configured(["age", "name"])
    async with spec:
        assert await users.search(QB["name"] == "user 0") == []
        before = await users.get(infos[0].resource_id)
        assert await users.reindex() == 210
        assert await users.reindex() == 0
        assert await users.count(QB["name"] == "user 0") == 69
        assert await users.count(QB["name"] == "user 0", include_deleted=True) == 70
        after = await users.get(infos[0].resource_id)
        assert (after.data, after.info, after.meta.updated_time) == (before.data, before.info, before.meta.updated_time)
        info = await users.update(infos[0].resource_id, User("new"), expected_revision_id=infos[0].revision_id)
        assert (await users.get(infos[0].resource_id)).info == info


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
