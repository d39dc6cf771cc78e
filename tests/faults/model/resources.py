"""Resources, in the machine: changed alone and together, read in every way, searched."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import anyio
from hypothesis import strategies as st
from hypothesis.stateful import rule

from specstar import QB
from specstar.query import Condition
from tests.faults.model.machine import Managers
from tests.faults.model.plain import Op, Row, Rule, User

__all__ = ["ResourceRules"]

IDS = ["a", "b", "c/../d", "É", "e'\"", "F f"]
WORDS = ["", "Ann", "ann", "Zoë", "a%_", "x" * 300]
TAGS = ["red", "Red", ""]
users = st.builds(User, st.sampled_from(WORDS), st.integers(-2, 3), st.lists(st.sampled_from(TAGS), max_size=2))
patches = st.one_of(
    st.fixed_dictionaries({"age": st.integers(-2, 3)}),
    st.fixed_dictionaries({"name": st.sampled_from(WORDS), "tags": st.none()}),
    st.just({"name": None}),
    st.just({"age": "old"}),
)
CHANGES = [
    "create",
    "create",
    "update",
    "update",
    "modify",
    "patch",
    "delete",
    "restore",
    "switch",
    "permanently_delete",
]
ops = st.builds(
    Op,
    kind=st.sampled_from(CHANGES),
    resource_id=st.sampled_from(IDS),
    data=users,
    status=st.sampled_from(["stable", "draft"]),
    expected=st.sampled_from([None, "current", "stale"]),
    pick=st.integers(0, 5),
    patch=patches,
    user=st.sampled_from(["alice", "bob"]),
)
CONDITIONS: list[tuple[Condition | None, Callable[[str, User], bool]]] = [
    (None, lambda _, user: True),
    (QB["age"] >= 1, lambda _, user: user.age >= 1),
    (QB["age"].in_([0, 2]), lambda _, user: user.age in (0, 2)),
    (QB["name"] == "Ann", lambda _, user: user.name == "Ann"),
    (QB["name"] != "Ann", lambda _, user: user.name != "Ann"),
    (QB["name"].starts_with("a"), lambda _, user: user.name.startswith("a")),
    (QB["tags"].contains("red"), lambda _, user: "red" in user.tags),
    ((QB["age"] < 2) & ~(QB["name"] == ""), lambda _, user: user.age < 2 and user.name != ""),
    ((QB["age"] == 3) | (QB["resource_id"] == "a"), lambda key, user: user.age == 3 or key == "a"),
]


class ResourceRules(Managers):
    """`ResourceManager`."""

    async def change(self, op: Op, row: Row | None) -> Any:
        """The real call. `row` is what the model has of the resource."""
        expected: dict[str, Any] = {}
        if op.expected and row is not None:
            expected = {"expected_revision_id": row.expected_id(op.expected)}
        users, key = self.users, op.resource_id
        with users.using(user=op.user):
            match op.kind:
                case "create":
                    return await users.create(op.data, resource_id=key, status=op.status)  # type: ignore[arg-type]
                case "update" | "modify":
                    method = getattr(users, op.kind)
                    return await method(key, op.data, status=op.status, **expected)
                case "patch":
                    return await users.patch(key, op.patch, status=op.status, **expected)  # type: ignore[arg-type]
                case "switch":
                    wanted = row.revision_id(op.pick) if row is not None else "no such revision"
                    return await users.switch(key, wanted, **expected)
                case "restore":
                    return await users.restore(key)
                case _:
                    return await getattr(users, op.kind)(key, **expected)

    async def outcome(self, op: Op) -> Any:
        return await self.told(self.change, op, self.resources.rows.get(op.resource_id))

    def compare(self, op: Op, outcome: Any) -> None:
        """Make the change in the model too."""
        refusal: type[Exception] | None = None
        after: Row | None = None
        try:
            after = self.resources.change(op, getattr(outcome, "revision_id", ""))
        except Rule as rule_of:
            refusal = rule_of.error
        refused = type(outcome) if isinstance(outcome, Exception) else None
        assert refused is refusal, f"{op}: {outcome!r} instead of {refusal}"
        if refusal is not None:
            return
        if after is None:
            del self.resources.rows[op.resource_id]
        else:
            self.resources.rows[op.resource_id] = after

    @rule(op=ops)
    def one_change(self, op: Op) -> None:
        self.compare(op, self.call(self.outcome, op))
        self.look_at(op.resource_id)

    @rule(
        changes=st.lists(ops, min_size=2, max_size=6, unique_by=lambda op: op.resource_id),
        condition=st.sampled_from(CONDITIONS),
    )
    def changes_together(self, changes: list[Op], condition: Any) -> None:
        """On distinct resources: each has its own outcome. A search beside them sees each before or after."""
        outcomes: dict[str, Any] = {}

        async def one(op: Op) -> None:
            outcomes[op.resource_id] = await self.outcome(op)

        seen: list[str] = []

        async def look() -> None:
            seen.extend([found.resource_id for found in await self.users.search(condition[0])])

        async def together() -> None:
            async with anyio.create_task_group() as group:
                for op in changes:
                    group.start_soon(one, op)
                group.start_soon(look)

        before = self.matching(condition[1], include_deleted=False)
        self.call(together)
        for op in changes:
            self.compare(op, outcomes[op.resource_id])
        after = self.matching(condition[1], include_deleted=False)
        assert {*before} & {*after} - {op.resource_id for op in changes} <= {*seen}
        assert {*seen} <= {*before, *after}
        for op in changes:
            self.look_at(op.resource_id)

    @rule(data=st.lists(users, min_size=1, max_size=4), first=st.integers(0, 5))
    def create_many(self, data: list[User], first: int) -> None:
        ids = [IDS[(first + place) % len(IDS)] for place in range(len(data))]
        taken = [key for key in ids if key in self.resources.rows]

        made = self.call(self.told, self.users.create_many, data, resource_ids=ids)
        if taken:
            assert type(made).__name__ == "DuplicateResourceError", made
        for key, value in zip(ids, data, strict=True):
            if key not in taken:  # those are there, whatever became of the others
                revision = self.call(self.users.get_meta, key).current_revision_id
                self.compare(Op("create", key, value), type("Info", (), {"revision_id": revision})())
            self.look_at(key)

    def look_at(self, key: str) -> None:
        """Everything that can be read of a resource."""
        row = self.resources.rows.get(key)
        found = self.call(self.read_all, key)
        if row is None:
            assert found == ("ResourceNotFoundError", "ResourceNotFoundError", "ResourceNotFoundError", False, [None])
            return
        meta, revisions, current, exists, many = found
        assert (meta.current_revision_id, meta.is_deleted, meta.revision_count) == (
            row.current_id,
            row.deleted,
            len(row.revisions),
        )
        # It begins at any number.
        first = self.first_versions.setdefault((key, row.revisions[0].revision_id), meta.version - row.version)
        assert meta.version - row.version == first
        assert (meta.created_by, meta.updated_by) == (row.created_by, row.updated_by)
        told = [
            (one.revision_id, one.status.value, one.created_by, one.updated_by, one.parent_revision_id)
            for one in revisions
        ]
        assert sorted(told) == sorted(
            (one.revision_id, one.status, one.created_by, one.updated_by, one.parent) for one in row.revisions
        )
        assert exists is not row.deleted
        if row.deleted:
            assert (current, many) == ("ResourceDeletedError", [None])
        else:
            assert current.data == row.current.data == many[0].data
            assert current.meta == meta
        for one in row.revisions:
            old = self.call(self.users.get, key, revision_id=one.revision_id, include_deleted=True)
            assert (old.data, old.info.revision_id) == (one.data, one.revision_id)

    async def read_all(self, key: str) -> tuple[Any, ...]:
        users = self.users
        calls: list[Any] = [users.get_meta, users.list_revisions, users.get, users.exists]
        answers = [await self.told(call, key) for call in calls]
        answers.append(await users.get_many([key]))
        return tuple(type(answer).__name__ if isinstance(answer, Exception) else answer for answer in answers)

    def matching(self, matches: Callable[[str, User], bool], *, include_deleted: bool) -> list[str]:
        found = self.resources.found(include_deleted=include_deleted)
        return [key for key, user in found.items() if matches(key, user)]

    @rule(
        condition=st.sampled_from(CONDITIONS),
        include_deleted=st.booleans(),
        sort=st.sampled_from([(), ("age",), ("-age",), ("-name", "age"), ("age", "-name")]),
        limit=st.integers(1, 4),
        offset=st.integers(0, 2),
    )
    def search(self, condition: Any, include_deleted: bool, sort: tuple[str, ...], limit: int, offset: int) -> None:
        """By pages, by offset and by `iter`: the same order as Python's."""
        query, matches = condition
        found = self.resources.found(include_deleted=include_deleted)
        # Python sorts stably: the ids first, which break ties in the direction of the last name.
        expected = self.matching(matches, include_deleted=include_deleted)
        expected.sort(key=str.encode, reverse=bool(sort) and sort[-1].startswith("-"))
        for name in reversed(sort):
            value = functools.partial(_value, found, name.removeprefix("-"))
            expected.sort(key=value, reverse=name.startswith("-"))
        options: dict[str, Any] = {"sort": sort, "include_deleted": include_deleted}
        assert self.call(self.users.count, query, include_deleted=include_deleted) == len(expected)
        part = self.call(self.users.search, query, limit=limit, offset=offset, **options)
        assert [one.resource_id for one in part] == expected[offset : offset + limit]
        assert [one.data for one in part] == [found[one.resource_id] for one in part]

        async def paged() -> list[str]:
            ids, cursor = [], None
            while True:
                page = await self.users.search(query, limit=limit, after=cursor, **options)
                ids += [one.resource_id for one in page]
                cursor = page.cursor
                if cursor is None:
                    return ids

        async def iterated() -> list[str]:
            return [one.resource_id async for one in self.users.iter(query, page_size=limit, **options)]

        assert self.call(paged) == expected
        assert self.call(iterated) == expected

    @rule()
    def collect_garbage(self) -> None:
        """Nothing that is referenced may go, and nobody writes now."""
        self.call(self.users.collect_garbage, older_than_seconds=0)

    def look_at_resources(self) -> None:
        for key in IDS:
            self.look_at(key)


def _value(found: dict[str, User], name: str, key: str) -> Any:
    value = getattr(found[key], name)
    return value.encode() if isinstance(value, str) else value
