"""`copy_to`: what a program keeps, in other backends, as it is; repeated, interrupted, and with a target of its own mind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from specstar import QB, CopyReport, SpecStar
from specstar.errors import BackendUnavailable, ConfigError, NotConfiguredError, UsageError
from specstar.resource_manager import BoundStorageFactory, DiskStorageFactory
from specstar.roles import Storage, StoredRevision
from specstar.roles.storage import StorageWrite
from tests.conformance.managers.users import FIELDS, Address, User, Users

MEMORY = {"type": "memory"}
ODD = "../etc/ü\n%2f"
BLOBS = [b"", b"some bytes", bytes(range(256)) * 12_000]


class Note(msgspec.Struct):
    text: str


@asynccontextmanager
async def on(backend: dict[str, Any]) -> AsyncIterator[tuple[SpecStar, Users]]:
    spec = SpecStar()
    users = spec.add_model(User, indexed_fields=FIELDS)
    spec.add_model(Note)
    spec.configure(backend=backend)
    async with spec:
        yield spec, users


def folder(path: Path) -> dict[str, Any]:
    disk = {"type": "disk", "options": {"rootdir": str(path)}}
    return {"meta": disk, "resource": disk, "blob": disk}


async def fill(spec: SpecStar, users: Users) -> None:
    for number in range(5):
        await users.create(User(name=f"user {number}", age=number, score=number / 3), resource_id=f"user{number}")
    await users.create(
        User(name="Zoë \U0001f40d", tags=["a", "ü"], joined=datetime(2026, 1, 1, tzinfo=UTC)), resource_id=ODD
    )
    first = await users.create(User(name="many"), resource_id="many")
    for number in range(4):
        await users.update("many", User(name="many", age=number, address=Address(city="Köln")))
    await users.switch("many", first.revision_id)
    await users.create(User(name="draft"), resource_id="draft", status="draft")
    await users.modify("draft", User(name="draft", age=7))
    await users.create(User(name="gone", email="g" * 20_000), resource_id="gone")
    await users.delete("gone")
    await spec.get_resource_manager(Note).create(Note("a note"), resource_id="note")
    for data in BLOBS:
        await spec.blobs.put(data, content_type="text/x-test")


async def everything(users: Users) -> dict[str, Any]:
    """All that a program can see of the users."""
    found: dict[str, Any] = {}
    for resource_id in [*(f"user{number}" for number in range(5)), ODD, "many", "draft", "gone"]:
        revisions = await users.list_revisions(resource_id)
        read = [
            await users.get(resource_id, revision_id=revision.revision_id, include_deleted=True)
            for revision in revisions
        ]
        found[resource_id] = (await users.get_meta(resource_id), revisions, [one.data for one in read])
    return found


def told(reports: list[CopyReport]) -> dict[str, tuple[int, int, int]]:
    return {report.name: (report.copied, report.unchanged, report.failed) for report in reports}


async def test_all_is_there_as_it_was(backend: dict[str, Any], binding: str, tmp_path: Path) -> None:
    """From every binding into a folder, and from there into every binding that is durable."""
    async with on(backend) as (spec, users):
        await fill(spec, users)
        before = await everything(users)
        pages: list[CopyReport] = []
        reports = await spec.copy_to(folder(tmp_path / "first"), progress=pages.append)
        assert told(reports) == {"User": (9, 0, 0), "Note": (1, 0, 0), "blobs": (3, 0, 0)}
        assert all(report.ok for report in reports)
        assert pages[0] == reports[0]
    async with on(folder(tmp_path / "first")) as (spec, users):
        assert await everything(users) == before
        known = await spec.blobs.put(b"some bytes")
        assert (await spec.blobs.get(known.file_id), known.content_type) == (b"some bytes", "text/x-test")
        if binding == "memory":
            return
        backend["resource"]["options"] = _elsewhere(backend["resource"], "resource", tmp_path)
        backend["meta"]["options"] = _elsewhere(backend["meta"], "meta", tmp_path)
        reports = await spec.copy_to(backend)
        assert told(reports) | {"blobs": ()} == {"User": (9, 0, 0), "Note": (1, 0, 0), "blobs": ()}
        again = await spec.copy_to(backend)
        assert told(again) | {"blobs": ()} == {"User": (0, 9, 0), "Note": (0, 1, 0), "blobs": ()}
    async with on(backend) as (spec, users):
        assert await everything(users) == before
        assert {one.info.resource_id for one in await users.search(QB["age"] >= 3)} == {"user3", "user4", "draft"}
        # It goes on from there.
        await users.update("many", User(name="more"))
        assert (await users.get_meta("many")).revision_count == 6


def _elsewhere(binding: dict[str, Any], role: str, tmp_path: Path) -> dict[str, Any]:
    """The same backend, at a place where nothing is yet."""
    options = dict(binding["options"])
    if binding["type"] == "disk":
        return options | {"rootdir": str(tmp_path / "second")}
    return options | ({"schema": "second"} if binding["type"] == "postgres" else {"prefix": f"second-{role}"})


async def test_what_changed_since_is_copied_and_what_the_target_changed_is_not_touched(tmp_path: Path) -> None:
    source, target = folder(tmp_path / "source"), folder(tmp_path / "target")
    async with on(source) as (spec, users):
        await fill(spec, users)
        await spec.copy_to(target)
        await users.update("user1", User(name="changed"))
        await users.restore("gone")
        await users.permanently_delete("user4")
        await spec.blobs.put(b"new")
        async with on(target) as (_, theirs):
            await theirs.update("user2", User(name="of the target"))
            await theirs.delete("user3")
            await theirs.create(User(name="new there"), resource_id="theirs")
        await users.create(User(name="new here"), resource_id="theirs")
        reports = await spec.copy_to(target)
        assert told(reports) == {"User": (2, 4, 3), "Note": (0, 1, 0), "blobs": (1, 3, 0)}
        assert not reports[0].ok
        assert sorted(problem.split(":")[0] for problem in reports[0].problems) == ["'theirs'", "'user2'", "'user3'"]
        assert all(
            "the target has another resource of this id, or has changed it" in each for each in reports[0].problems
        )
    async with on(target) as (_, theirs):
        assert (await theirs.get("user1")).data.name == "changed"
        assert (await theirs.get("gone")).data.name == "gone"
        assert (await theirs.get("user2")).data.name == "of the target"
        assert (await theirs.get_meta("user3")).is_deleted
        assert (await theirs.get("theirs")).data.name == "new there"
        assert await theirs.exists("user4")  # erased here, kept there


async def test_rows_that_are_shared_are_not_taken_for_a_copy(tmp_path: Path) -> None:
    """Payloads moved to another place beside the same rows: they would not be there."""
    source, other = folder(tmp_path / "source"), folder(tmp_path / "other")
    for backend in (source, other):
        backend["resource"]["options"]["inline_payload_bytes"] = 0
    async with on(source) as (spec, users):
        await users.create(User(name="Ada"), resource_id="ada")
        reports = await spec.copy_to({**other, "meta": source["meta"]})
        assert told(reports)["User"] == (0, 0, 1)
        assert "is gone from" in reports[0].problems[0]
        assert (await users.get("ada")).data.name == "Ada"


async def test_a_copy_onto_itself_is_refused(backend: dict[str, Any], binding: str, tmp_path: Path) -> None:
    """It would say that all is there, and a program that moved on with that would leave its data behind."""
    async with on(backend) as (spec, users):
        await users.create(User(name="Ada"), resource_id="ada")
        with pytest.raises(ConfigError if binding == "memory" else UsageError):
            await spec.copy_to(backend)
        reports = await spec.copy_to(folder(tmp_path / "new"), models={"Note": None})
        assert told(reports) | {"blobs": ()} == {"User": (1, 0, 0), "blobs": ()}
        if binding != "memory":
            # Blobs alone may move.
            reports = await spec.copy_to(backend | {"blob": folder(tmp_path / "blobs")["blob"]})
            assert told(reports)["User"] == (0, 1, 0)


async def test_a_copy_that_was_broken_off_is_made_whole_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = folder(tmp_path / "source"), folder(tmp_path / "target")
    async with on(source) as (spec, users):
        await fill(spec, users)
        for number in range(4):
            await users.create(User(name="large", email="l" * 1_500_000), resource_id=f"large{number}")
        before = await everything(users)
        with monkeypatch.context() as broken:
            _fails_after(broken, type(users._slot.storage), 6)
            with pytest.raises(BackendUnavailable, match="away"):
                await spec.copy_to(target)
        async with on(target) as (_, theirs):
            # Nobody takes half a resource for a whole one.
            for one in await theirs.search():
                assert (await theirs.get_meta(one.info.resource_id)) == await users.get_meta(one.info.resource_id)
        reports = await spec.copy_to(target)
        assert sum(told(reports)["User"]) == 13
        assert reports[0].ok
    async with on(target) as (_, theirs):
        assert await everything(theirs) == before


def _fails_after(monkeypatch: pytest.MonkeyPatch, kind: type[Storage], count: int) -> None:
    written = 0
    write = kind.write

    async def fails(self: Storage, item: StorageWrite) -> None:
        nonlocal written
        written += 1
        if written > count:
            raise BackendUnavailable("away")
        await write(self, item)

    monkeypatch.setattr(kind, "write", fails)


async def test_targets_that_keep_nothing_are_refused(tmp_path: Path) -> None:
    async with on(folder(tmp_path)) as (spec, users):
        await users.create(User(name="Ada"))
        with pytest.raises(ConfigError, match="a copy in memory would be gone"):
            await spec.copy_to({"meta": MEMORY, "resource": MEMORY, "blob": MEMORY})
        with pytest.raises(ConfigError, match="rootdirr"):
            await spec.copy_to({"meta": {"type": "disk", "options": {"rootdirr": "x"}}})
        await spec.blobs.put(b"one")
        reports = await spec.copy_to({**folder(tmp_path / "target"), "blob": MEMORY})
        assert told(reports)["blobs"] == (0, 0, 1)
        assert reports[-1].problems == ("1 blobs are not copied: the target binds blob to nothing durable",)


@asynccontextmanager
async def with_models_of_their_own(
    backend: dict[str, Any] | None, own: dict[str, Any]
) -> AsyncIterator[tuple[SpecStar, Users]]:
    """The users with a storage of their own, the notes, if there is a configuration, with that of the roles."""
    spec = SpecStar()
    users = spec.add_model(User, indexed_fields=FIELDS, storage_factory=BoundStorageFactory.from_config(own))
    if backend is not None:
        spec.add_model(Note)
        spec.configure(backend=backend)
    async with spec:
        yield spec, users


async def test_models_with_a_storage_of_their_own_go_where_they_are_told_to(tmp_path: Path) -> None:
    own, roles = folder(tmp_path / "own"), folder(tmp_path / "roles")
    target, theirs = folder(tmp_path / "target"), folder(tmp_path / "theirs")
    async with with_models_of_their_own(roles, own) as (spec, users):
        await fill(spec, users)
        before = await everything(users)
        left = await spec.copy_to(target)
        # Never left out without a word.
        assert told(left) == {"User": (0, 0, 9), "Note": (1, 0, 0), "blobs": (3, 0, 0)}
        assert not left[0].ok
        assert "9 resources are not copied: the model has a storage of its own" in left[0].problems[0]
        on_purpose = await spec.copy_to(target, models={"User": None})
        assert told(on_purpose) == {"Note": (0, 1, 0), "blobs": (0, 3, 0)}
        apart = await spec.copy_to(target, models={"User": theirs})
        assert told(apart) == {"User": (9, 0, 0), "Note": (0, 1, 0), "blobs": (0, 3, 0)}
        again = await spec.copy_to(target, models={"User": DiskStorageFactory(tmp_path / "theirs"), "Note": theirs})
        assert told(again) == {"User": (0, 9, 0), "Note": (1, 0, 0), "blobs": (0, 3, 0)}
        together = await spec.copy_to(target, models={"User": target})
        assert told(together)["User"] == (9, 0, 0)
        for models, error in (
            ({"Users": theirs}, NotConfiguredError),
            ({"User": {"meta": MEMORY, "resource": MEMORY}}, ConfigError),
        ):
            with pytest.raises(error):
                await spec.copy_to(target, models=models)
    async with with_models_of_their_own(target, theirs) as (_, users):
        assert await everything(users) == before
    async with on(target) as (_, users):
        assert await everything(users) == before


async def test_a_program_whose_models_all_have_a_storage_of_their_own_is_copied(tmp_path: Path) -> None:
    async with with_models_of_their_own(None, folder(tmp_path / "own")) as (spec, users):
        await users.create(User(name="Ada"), resource_id="ada")
        target = folder(tmp_path / "target")
        assert told(await spec.copy_to(target)) == {"User": (0, 0, 1)}
        assert told(await spec.copy_to(target, models={"User": target})) == {"User": (1, 0, 0)}


async def test_each_payload_of_the_source_is_read_once_and_that_of_the_target_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = folder(tmp_path / "source"), folder(tmp_path / "target")
    async with on(source) as (spec, users):
        await fill(spec, users)
        reads: dict[Storage, list[tuple[str, str | None]]] = {}
        read = type(users._slot.storage).read

        async def counted(self: Any, resource_id: str, revision_id: str | None = None) -> Any:
            if self._model == "User":
                reads.setdefault(self, []).append((resource_id, revision_id))
            return await read(self, resource_id, revision_id)

        monkeypatch.setattr(type(users._slot.storage), "read", counted)
        for _ in range(2):
            reads.clear()
            await spec.copy_to(target)
            ours = reads.pop(users._slot.storage)
            assert len(ours) == len(set(ours)) == 13
            assert [sorted(theirs) for theirs in reads.values()] == [sorted(ours)]


async def test_damage_in_the_target_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is written, and when it is looked at again."""
    source, target = folder(tmp_path / "source"), folder(tmp_path / "target")
    async with on(source) as (spec, users):
        await fill(spec, users)
        read = type(users._slot.storage).read

        async def damaged(self: Storage, resource_id: str, revision_id: str | None = None) -> Any:
            found = await read(self, resource_id, revision_id)
            if self is not users._slot.storage and resource_id == "gone" and isinstance(found, StoredRevision):
                return msgspec.structs.replace(found, payload=found.payload[:-1] + b"?")
            return found

        for _ in range(2):
            with monkeypatch.context() as broken:
                broken.setattr(type(users._slot.storage), "read", damaged)
                reports = await spec.copy_to(target)
            assert reports[0].failed == 1
            assert "'gone': the payload of revision" in reports[0].problems[0]
        assert told(await spec.copy_to(target))["User"] == (0, 9, 0)


@pytest.mark.parametrize("change", ["rewritten", "updated", "deleted", "erased"])
@pytest.mark.parametrize("when", ["list_revisions", "read"])
async def test_a_source_that_changes_meanwhile_is_copied_as_it_is_at_one_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, when: str
) -> None:
    """Before its revisions are listed, or its payload is read: a record in the target must never be of another payload."""
    source, target = folder(tmp_path / "source"), folder(tmp_path / "target")
    async with on(source) as (spec, users):
        await users.create(User(name="draft"), resource_id="draft", status="draft")
        kind = type(users._slot.storage)
        original = getattr(kind, when)
        left = ["once"]

        async def changes(self: Storage, resource_id: str, *revision_id: str) -> Any:
            if left and self is users._slot.storage:
                left.clear()
                if change == "rewritten":
                    await users.modify("draft", User(name="another", age=70))
                elif change == "updated":
                    await users.update("draft", User(name="another", age=70))
                elif change == "deleted":
                    await users.delete("draft")
                else:
                    await users.permanently_delete("draft")
            return await original(self, resource_id, *revision_id)

        with monkeypatch.context() as busy:
            busy.setattr(kind, when, changes)
            reports = await spec.copy_to(target)
        assert not left
        assert told(reports)["User"] == ((0, 0, 0) if change == "erased" else (1, 0, 0))
        if change == "erased":
            return
        kept = (await users.get_meta("draft"), await users.list_revisions("draft"))
        data = await users.get("draft", include_deleted=True)
        assert told(await spec.copy_to(target))["User"] == (0, 1, 0)
    async with on(target) as (_, theirs):
        assert (await theirs.get_meta("draft"), await theirs.list_revisions("draft")) == kept
        assert (await theirs.get("draft", include_deleted=True)).data == data.data


async def test_a_source_that_never_rests_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = folder(tmp_path / "source"), folder(tmp_path / "target")
    async with on(source) as (spec, users):
        await users.create(User(name="busy"), resource_id="busy")
        kind = type(users._slot.storage)
        listed = kind.list_revisions

        async def changes(self: Storage, resource_id: str) -> Any:
            found = await listed(self, resource_id)
            if self is users._slot.storage:
                await users.update("busy", User(name="busier"))
            return found

        monkeypatch.setattr(kind, "list_revisions", changes)
        reports = await spec.copy_to(target)
        assert told(reports)["User"] == (0, 0, 1)
        assert "it is changed all the time" in reports[0].problems[0]
