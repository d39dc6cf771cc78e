"""Upload sessions and files that someone has in hand: others wait with a limit, and remove nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from specstar import SpecStar
from specstar.backends.disk import durable, uploads
from specstar.errors import BackendError, BackendUnavailable, BlobIntegrityError, BlobNotFoundError
from specstar.runtime import NewFile


def _found(root: Path, pattern: str) -> list[Path]:
    return list(root.rglob(pattern))


def _spec(root: Path, **options: object) -> SpecStar:
    spec = SpecStar()
    spec.configure(backend={"blob": {"type": "disk", "options": {"rootdir": str(root), **options}}})
    return spec


async def test_a_session_in_the_hands_of_another_program_is_waited_for_with_a_limit(tmp_path: Path) -> None:
    async with _spec(tmp_path, busy_timeout_seconds=0.3) as spec:
        session = await spec.blobs.create_upload()
        await spec.blobs.upload(session.upload_id, b"part")
        [file] = _found(tmp_path, "session.json")
        with file.open("rb+") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(BackendUnavailable, match="in the hands of another program"):
                await spec.blobs.finalize(session.upload_id)
            old = file.stat().st_mtime - 10_000
            os.utime(file.parent, (old, old))
            assert await spec.blobs.collect_garbage(older_than_seconds=5_000) == 0
        assert (await spec.blobs.finalize(session.upload_id)).size == 4
        os.utime(file.parent, (old, old))
        assert await spec.blobs.collect_garbage(older_than_seconds=5_000) == 1
        with pytest.raises(BlobNotFoundError):
            await spec.blobs.finalize(session.upload_id)


async def test_a_collector_that_stood_still_leaves_a_session_that_went_on_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _spec(tmp_path) as collector, _spec(tmp_path) as spec:
        session = await spec.blobs.create_upload()
        [file] = _found(tmp_path, "session.json")
        now = file.stat().st_mtime
        os.utime(file.parent, (now - 10_000, now - 10_000))
        real = uploads._locked

        def goes_on_before(path: Path, how: int) -> Any:
            os.utime(file.parent, (now, now))  # as a part does that comes in
            return real(path, how)

        monkeypatch.setattr(uploads, "_locked", goes_on_before)
        assert await collector.blobs.collect_garbage(older_than_seconds=5_000) == 0
        await spec.blobs.upload(session.upload_id, b"part")
        assert (await spec.blobs.finalize(session.upload_id)).size == 4


async def test_a_child_that_was_forked_during_an_upload_does_not_hold_the_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[int] = []
    real = durable.fsync_folder

    def fork(folder: Path) -> None:
        if not children and list(folder.glob("part-*")):
            child = os.fork()
            if child == 0:
                time.sleep(30)
                os._exit(0)
            children.append(child)
        real(folder)

    monkeypatch.setattr("specstar.backends.disk.uploads.fsync_folder", fork)
    async with _spec(tmp_path, busy_timeout_seconds=2) as spec:
        session = await spec.blobs.create_upload()
        await spec.blobs.upload(session.upload_id, b"part")
        try:
            with anyio.fail_after(10):
                assert (await spec.blobs.finalize(session.upload_id)).size == 4
        finally:
            os.kill(children[0], 9)
            await anyio.to_thread.run_sync(os.waitpid, children[0], 0)


async def test_a_part_whose_upload_failed_is_not_in_the_blob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with _spec(tmp_path) as spec:
        session = await spec.blobs.create_upload()
        await spec.blobs.upload(session.upload_id, b"one ")
        with monkeypatch.context() as broken:

            def fails(folder: Path) -> None:
                raise OSError(5, "Input/output error", str(folder))

            broken.setattr("specstar.backends.disk.uploads.fsync_folder", fails)
            with pytest.raises(BackendError, match="Input/output error"):
                await spec.blobs.upload(session.upload_id, b"two ")
        await spec.blobs.upload(session.upload_id, b"two ")
        info = await spec.blobs.finalize(session.upload_id)
        assert await spec.blobs.get(info.file_id) == b"one two "


async def test_the_file_of_a_slow_stream_is_no_garbage_of_its_own_program(tmp_path: Path) -> None:
    async with _spec(tmp_path) as spec:

        async def slow() -> object:
            yield b"x" * (1 << 20)
            for file in _found(tmp_path, "_tmp/*"):
                os.utime(file, (1, 1))
            await spec.blobs.collect_garbage(older_than_seconds=100)
            yield b"y"

        info = await spec.blobs.put(slow())  # type: ignore[arg-type]
        assert info.size == (1 << 20) + 1


async def test_the_first_calls_share_one_count_of_open_files(tmp_path: Path) -> None:
    spec = _spec(tmp_path)
    async with spec:
        store = spec.blobs._store

        async def first() -> None:
            await spec.blobs.exists("0" * 64)
            seen.add(id(store._opened[1]))  # type: ignore[attr-defined]

        seen: set[int] = set()
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(first)
        assert len(seen) == 1


def test_a_saved_file_is_never_set_user_id(tmp_path: Path) -> None:
    path = tmp_path / "tool"
    path.write_bytes(b"old")
    path.chmod(0o4750)
    new = NewFile(path)
    new.write(b"new")
    new.keep()
    new.drop()
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o750)


def test_a_saved_file_stays_that_of_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_bytes(b"old")
    owner = 12_345 if os.geteuid() == 0 else os.geteuid()
    os.chown(path, owner, -1)
    new = NewFile(path)
    new.write(b"new")
    new.keep()
    new.drop()
    assert path.stat().st_uid == owner


def test_an_owner_that_cannot_be_given_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")  # an owner outside the user namespace of a container

    path = tmp_path / "mine"
    path.write_bytes(b"old")
    path.chmod(0o640)
    monkeypatch.setattr(os, "fchown", refuse)
    if os.geteuid() == 0:
        os.chown(path, 12_345, -1)
    new = NewFile(path)
    new.write(b"new")
    new.keep()
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o640)
    monkeypatch.setattr(os, "fchmod", refuse)
    NewFile(path).drop()
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_fails_to_begin_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "mine"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fchmod", refuse)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(KeyboardInterrupt):
        NewFile(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert list(tmp_path.iterdir()) == [path]


def test_temporary_files_in_use_are_kept_from_a_sweep(tmp_path: Path) -> None:
    temps = durable.TempFolder(tmp_path)
    paths = []
    for _ in range(2):
        descriptor, path = temps.create()
        os.close(descriptor)
        paths.append(path)
    temps.drop(paths[1])
    assert list(tmp_path.iterdir()) == [paths[0]]
    left = tmp_path / "of-a-killed-writer"
    left.write_bytes(b"")
    assert temps.sweep(-10) == 1
    assert list(tmp_path.iterdir()) == [paths[0]]


async def test_two_programs_add_to_one_session(tmp_path: Path) -> None:
    """Each goes on where it left off: that place may be the other's by now."""
    async with _spec(tmp_path) as one, _spec(tmp_path) as other:
        session = await one.blobs.create_upload()
        for number in range(3):
            for spec in (one, other, other):
                await spec.blobs.upload(session.upload_id, b"%d" % number)
        info = await other.blobs.finalize(session.upload_id)
        assert await one.blobs.get(info.file_id) == b"000111222"


async def test_a_session_whose_record_is_damaged_can_only_be_aborted(tmp_path: Path) -> None:
    async with _spec(tmp_path) as spec:
        session = await spec.blobs.create_upload()
        await spec.blobs.upload(session.upload_id, b"part")
        [file] = _found(tmp_path, "session.json")
        file.write_bytes(b'{"content_type": ')
        with pytest.raises(BlobIntegrityError, match=f"upload {session.upload_id} is damaged: abort it"):
            await spec.blobs.finalize(session.upload_id)
        await spec.blobs.abort(session.upload_id)
        assert _found(tmp_path, "part-*") == []


async def test_folders_that_somebody_removed_are_made_again(tmp_path: Path) -> None:
    async with _spec(tmp_path) as spec:
        await spec.blobs.abort((await spec.blobs.create_upload()).upload_id)
        info = await spec.blobs.put(b"one")
        await spec.blobs.delete(info.file_id)
        for folder in (tmp_path / "_blobs").iterdir():
            shutil.rmtree(folder)
        session = await spec.blobs.create_upload()
        await spec.blobs.upload(session.upload_id, b"part")
        assert (await spec.blobs.finalize(session.upload_id)).size == 4
        assert (await spec.blobs.put(b"one")).file_id == info.file_id
        assert await spec.blobs.get(info.file_id) == b"one"


async def test_what_an_abort_that_was_killed_has_left_is_garbage(tmp_path: Path) -> None:
    async with _spec(tmp_path) as spec:
        session = await spec.blobs.create_upload()
        await spec.blobs.upload(session.upload_id, b"part")
        [file] = _found(tmp_path, "session.json")
        file.unlink()
        old = time.time() - 10_000
        os.utime(file.parent, (old, old))
        assert await spec.blobs.collect_garbage(older_than_seconds=5_000) == 1
        assert not file.parent.exists()
