"""The coroutines of `ResourceManager`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from specstar import QB
from specstar.backends.disk.storage import DiskStorage
from specstar.errors import ResourceNotFoundError
from specstar.resource_manager.composed import ComposedStorage
from specstar.roles import MetaWrite, PayloadKey
from specstar.roles.storage import StorageWrite
from tests.faults.cancellation.place import LARGE, Case, Place, User

__all__ = ["RESOURCE_CASES"]


async def state_of(place: Place, resource_id: str) -> Any:
    """Data, place and status of each revision, and the flag: what a resource consists of, without ids and times."""
    users = place.users
    try:
        meta = await users.get_meta(resource_id)
    except ResourceNotFoundError:
        return "not there"
    revisions = await users.list_revisions(resource_id)
    assert len(revisions) == meta.revision_count
    whole = []
    for revision in revisions:
        found = await users.get(resource_id, revision_id=revision.revision_id, include_deleted=True)
        current = revision.revision_id == meta.current_revision_id
        whole.append((found.data.name[:20], found.data.age, len(found.data.name), revision.status.value, current))
    now = (await users.get(resource_id, include_deleted=True)).data
    found_by_age = await users.count((QB["resource_id"] == resource_id) & (QB["age"] == now.age), include_deleted=True)
    return whole, meta.is_deleted, found_by_age


async def look(place: Place, subject: str) -> Any:
    return await state_of(place, subject)


async def nothing(place: Place) -> str:
    return f"new-{place.number()}"


async def stable(place: Place) -> str:
    return (await place.users.create(User("Ann", 1))).resource_id


async def stable_large(place: Place) -> str:
    return (await place.users.create(User("A" * LARGE, 1))).resource_id


async def draft(place: Place) -> str:
    return (await place.users.create(User("A" * LARGE, 1), status="draft")).resource_id


async def deleted(place: Place) -> str:
    resource_id = await stable(place)
    await place.users.delete(resource_id)
    return resource_id


async def two_revisions(place: Place) -> str:
    resource_id = await stable_large(place)
    await place.users.update(resource_id, User("Bob", 2))
    return resource_id


async def group_of_five(place: Place) -> str:
    group = f"group {place.number()}"
    await place.users.create_many([User(f"n{number}", number, group) for number in range(5)])
    return group


async def three_new_ids(place: Place) -> list[str]:
    return [await nothing(place) for _ in range(3)]


async def create_many(place: Place, ids: list[str]) -> Any:
    data = [User("A" * LARGE, 1), User("Bob", 2), User("Cy", 3)]
    await place.users.create_many(data, resource_ids=ids)


async def look_at_many(place: Place, ids: list[str]) -> Any:
    return [await state_of(place, resource_id) for resource_id in ids]


async def switch(place: Place, subject: str) -> Any:
    first = (await place.users.list_revisions(subject))[0]
    await place.users.switch(subject, first.revision_id)


async def conditional(place: Place, subject: str) -> Any:
    current = (await place.users.get_meta(subject)).current_revision_id
    await place.users.update(subject, User("B" * LARGE, 2), expected_revision_id=current)


async def iterate(place: Place, group: str) -> Any:
    found = place.users.iter(QB["group"] == group, sort=["age"], page_size=2)
    ages = [one.data.age async for one in found]
    assert ages == [0, 1, 2, 3, 4]


async def search(place: Place, group: str) -> Any:
    assert len(await place.users.search(QB["group"] == group, sort=["-age"], limit=3)) == 3


async def garbage(place: Place) -> list[PayloadKey]:
    """Payloads that a writer left who was killed before the row; some backends write both at once."""
    keys = [PayloadKey(f"lost-{place.number()}", "p") for _ in range(3)]

    async def leave() -> None:
        storage = place.users._slot.storage
        if isinstance(storage, DiskStorage):
            await storage._way()
            for key in keys:
                await storage._files.write(key, bytes(LARGE))
        elif isinstance(storage, ComposedStorage):
            await storage._resource.put_many([(key, bytes(LARGE)) for key in keys])

    await place.spec._gate.run(leave)
    return keys


async def collect(place: Place, keys: Any) -> Any:
    with place.users.using(now=datetime.now(UTC) + timedelta(hours=2)):
        await place.users.collect_garbage(older_than_seconds=3600)


async def look_at_payloads(place: Place, keys: list[PayloadKey]) -> Any:
    async def listed() -> set[PayloadKey]:
        return {entry.key async for page in place.users._slot.storage.list_payloads() for entry in page}

    there = await place.spec._gate.run(listed)
    return [key in there for key in keys]


async def stale(place: Place) -> list[str]:
    """Resources of a time when no field was indexed."""
    ids = [await stable(place) for _ in range(3)]

    async def forget_fields() -> None:
        writer = place.users._slot.writer
        for resource_id in ids:
            meta = await place.users.get_meta(resource_id)
            bare = replace(meta, version=meta.version + 1, indexed_data={})
            writer.forget(resource_id)
            await writer.storage.write(StorageWrite(MetaWrite(bare, None, meta.version), None))

    await place.spec._gate.run(forget_fields)
    return ids


async def look_at_found(place: Place, ids: list[str]) -> Any:
    return [await place.users.count((QB["resource_id"] == each) & (QB["age"] == 1)) for each in ids]


def _case(name: str, *arguments: Any, **options: Any) -> Case:
    return Case(f"ResourceManager.{name}", *arguments, **options)


RESOURCE_CASES = [
    _case("create", nothing, lambda p, s: p.users.create(User("Ann", 1), resource_id=s), look, note="small"),
    _case("create", nothing, lambda p, s: p.users.create(User("A" * LARGE), resource_id=s), look, note="large"),
    _case("create_many", three_new_ids, create_many, look_at_many, parts=True),
    _case("update", stable, lambda p, s: p.users.update(s, User("B" * LARGE, 2)), look),
    _case("update", stable, conditional, look, note="conditional"),
    _case("upsert", nothing, lambda p, s: p.users.upsert(s, User("A" * LARGE, 1)), look, note="new"),
    _case("upsert", stable, lambda p, s: p.users.upsert(s, User("B" * LARGE, 2)), look, note="there"),
    _case("modify", draft, lambda p, s: p.users.modify(s, User("B" * LARGE, 2)), look),
    _case("patch", stable_large, lambda p, s: p.users.patch(s, {"age": 9}), look),
    _case("delete", stable, lambda p, s: p.users.delete(s), look),
    _case("restore", deleted, lambda p, s: p.users.restore(s), look),
    _case("permanently_delete", two_revisions, lambda p, s: p.users.permanently_delete(s), look),
    _case("switch", two_revisions, switch, look),
    _case("get", stable_large, lambda p, s: p.users.get(s)),
    _case("get_many", stable_large, lambda p, s: p.users.get_many([s, "no"])),
    _case("exists", stable, lambda p, s: p.users.exists(s)),
    _case("get_meta", stable, lambda p, s: p.users.get_meta(s)),
    _case("list_revisions", two_revisions, lambda p, s: p.users.list_revisions(s)),
    _case("search", group_of_five, search),
    _case("count", group_of_five, lambda p, s: p.users.count(QB["group"] == s)),
    _case("iter", group_of_five, iterate),
    _case("explain", nothing, lambda p, s: p.users.explain(QB["age"] == 1)),
    _case("reindex", stale, lambda p, s: p.users.reindex(), look_at_found, parts=True, alone=True),
    _case("sync", nothing, lambda p, s: p.users.sync()),
    _case("discard", nothing, lambda p, s: p.users.discard()),
    _case("collect_garbage", garbage, collect, look_at_payloads, parts=True, alone=True),
]
