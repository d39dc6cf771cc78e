"""The file protocol: order of the calls, and what happens when one fails."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from specstar.backends.disk import durable, new_blob
from specstar.backends.disk.blob_files import BlobFiles
from specstar.backends.disk.durable import (
    FolderTree,
    TempFolder,
    disk_errors,
    link_new,
    make_folder,
    start_writing,
    write_fully,
)
from specstar.backends.disk.new_blob import NewBlob
from specstar.backends.disk.payload_files import PayloadFiles
from specstar.errors import BackendError, BackendUnavailable, BlobIntegrityError, BlobNotFoundError, DecodeError
from specstar.roles import PayloadKey

KEY = PayloadKey("resource", "payload")


class Calls:
    """Records the calls that matter for durability, and fails the ones it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.fail: dict[str, int] = {}
        self._real: dict[str, Callable[..., Any]] = {}
        for name in ("write", "fsync", "link"):
            self._real[name] = getattr(os, name)
            monkeypatch.setattr(os, name, self._wrapped(name))
        real_replace = Path.replace

        def replace(path: Path, target: Path) -> Path:
            self._note("replace")
            return real_replace(path, target)

        monkeypatch.setattr(Path, "replace", replace)

    def _wrapped(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            what = name
            if name == "fsync":
                what = "fsync folder" if os.path.isdir(f"/proc/self/fd/{args[0]}") else "fsync file"  # noqa: PTH112
            self._note(what)
            return self._real[name](*args)

        return call

    def _note(self, what: str) -> None:
        self.log.append(what)
        if what in self.fail:
            number = self.fail[what]
            raise OSError(number, os.strerror(number), "/some/path")


@pytest.fixture
def payloads(tmp_path: Path) -> PayloadFiles:
    temps = TempFolder(tmp_path / "_tmp")
    return PayloadFiles(tmp_path, "model", temps)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobFiles:
    return BlobFiles(tmp_path / "_blobs")


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_payload_is_synced_before_it_gets_its_name_and_its_folder_after(
    payloads: PayloadFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads.write([(KEY, b"first")])
    calls = Calls(monkeypatch)
    payloads.write([(KEY, b"first")])
    assert calls.log == ["write", "write", "fsync file", "replace", "fsync folder"]


def test_new_folders_are_synced_too(payloads: PayloadFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    payloads.write([(KEY, b"first")])
    after = calls.log[calls.log.index("replace") + 1 :]
    # The folder of the file, the one above it, the model's, the one for all models, and the root.
    assert after == ["fsync folder"] * 5


def test_folders_whose_names_are_durable_are_not_synced_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "base"
    tree = FolderTree(base)
    synced: list[str] = []

    def settle(leaf: Path) -> list[str]:
        tree.make(leaf)
        synced.clear()
        tree.settle([leaf])
        return list(synced)

    real = durable.fsync_folder

    def seen(path: str | Path) -> None:
        synced.append(str(Path(path).relative_to(tmp_path)))
        real(path)

    monkeypatch.setattr(durable, "fsync_folder", seen)
    assert settle(base / "a" / "b") == [".", "base", "base/a", "base/a/b"]
    assert settle(base / "a" / "c") == ["base/a", "base/a/c"]
    assert settle(base / "a" / "b") == ["base/a/b"]
    shutil.rmtree(base / "a")  # by somebody else
    assert settle(base / "a" / "d") == [".", "base", "base/a", "base/a/d"]


def test_a_blob_is_synced_before_it_gets_its_name(blobs: BlobFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs.put_bytes(b"warm up", "a/b")
    calls = Calls(monkeypatch)
    blobs.put_bytes(b"data", "a/b")
    order = [call for call in calls.log if call != "write"]
    assert order[:2] == ["fsync file", "link"]
    assert set(order[2:]) == {"fsync folder"}


@pytest.mark.parametrize("failing", ["write", "fsync file", "replace", "fsync folder"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_failed_payload_is_an_error_and_leaves_no_file(
    payloads: PayloadFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, number: int
) -> None:
    payloads.write([(PayloadKey("other", "p"), b"warm up")])
    with monkeypatch.context() as patch:
        calls = Calls(patch)
        calls.fail[failing] = number
        with pytest.raises(BackendError) as caught:
            payloads.write([(KEY, b"data")])
        assert calls.log.count(failing) == 1  # never repeated
    assert os.strerror(number) in str(caught.value)
    assert ";" in str(caught.value)  # says what to do
    assert files_under(tmp_path / "_tmp") == []
    if failing != "fsync folder":
        assert payloads.read([KEY]) == [None]
    payloads.write([(KEY, b"data")])
    assert payloads.read([KEY]) == [b"data"]


@pytest.mark.parametrize("failing", ["write", "fsync file", "link", "fsync folder"])
@pytest.mark.parametrize("size", [10, 3 << 20])
def test_a_failed_blob_is_an_error_and_leaves_no_file(
    blobs: BlobFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failing: str, size: int
) -> None:
    blobs.put_bytes(b"warm up", "a/b")
    source = tmp_path / "source"
    source.write_bytes(bytes(size))
    puts: list[Callable[[], Any]] = [
        lambda: blobs.put_bytes(bytes(size), "a/b"),
        lambda: blobs.put_file(source, "a/b"),
    ]
    for put in puts:
        with monkeypatch.context() as patch:
            Calls(patch).fail[failing] = errno.EIO
            with pytest.raises(BackendError, match="check it"):
                put()
        assert files_under(blobs.temps.path) == []
        info = put()
        assert info.size == size
        blobs.delete(info.file_id)


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data[:7])))
    path = tmp_path / "file"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    write_fully(descriptor, b"0123456789" * 10)
    os.close(descriptor)
    assert path.read_bytes() == b"0123456789" * 10


def test_short_reads_are_completed(payloads: PayloadFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    payload = os.urandom(5000)
    payloads.write([(KEY, payload)])
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: real(descriptor, min(size, 100), offset))
    assert payloads.read([KEY]) == [payload]


def test_errors_that_pass_are_unavailable() -> None:
    with pytest.raises(BackendUnavailable), disk_errors("x"):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BackendError, match="file"), disk_errors(tmp_path):
        make_folder(tmp_path / "file" / "below")


def test_sweeping_removes_only_what_is_old(tmp_path: Path) -> None:
    temps = TempFolder(tmp_path / "_tmp")
    assert temps.sweep(0) == 0
    made = []
    for _ in range(3):
        descriptor, path = temps.create()
        os.close(descriptor)
        made.append(path)
    hour_ago = time.time() - 3600
    os.utime(made[0], (hour_ago, hour_ago))
    (temps.path / "folder").mkdir()
    assert TempFolder(temps.path).sweep(1800) == 1
    assert not made[0].exists()
    assert made[1].exists()


def test_temporary_files_come_back_after_their_folder_was_removed(tmp_path: Path) -> None:
    temps = TempFolder(tmp_path / "a" / "_tmp")
    descriptor, path = temps.create()
    os.close(descriptor)
    assert path.exists()


def test_links_where_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "target"

    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    source.write_bytes(b"x")
    assert link_new(source, target)
    assert target.read_bytes() == b"x"
    source.write_bytes(b"y")
    assert not link_new(source, target, alone=True)
    assert (target.read_bytes(), source.read_bytes()) == (b"x", b"y")
    target.unlink()
    assert link_new(source, target, alone=True)
    assert target.read_bytes() == b"y"


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_file_systems_without_folder_sync_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    refused: list[Path] = []

    def refuse(descriptor: int) -> None:
        refused.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    durable.make_folder(tmp_path / "a" / "b")
    assert refused == [tmp_path, tmp_path / "a"]
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_that_could_not_be_synced_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    open_files = list(Path("/proc/self/fd").iterdir())
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        durable.make_folder(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    assert len(list(Path("/proc/self/fd").iterdir())) == len(open_files)


def test_a_removed_folder_is_made_again(tmp_path: Path) -> None:
    tree = FolderTree(tmp_path / "base")
    folder = tmp_path / "base" / "a" / "b"
    tree.make(folder)
    tree.settle([folder])
    folder.rmdir()
    tree.make(folder)
    assert not folder.exists()
    tree.forget(folder)
    tree.make(folder)
    assert folder.exists()


@pytest.mark.parametrize("damage", ["cut", "longer", "flipped", "empty", "header", "foreign"])
def test_a_damaged_payload_file_is_told(payloads: PayloadFiles, damage: str) -> None:
    payloads.write([(KEY, os.urandom(1000)), (PayloadKey("other", "p"), b"fine")])
    path = payloads.path_of(KEY)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[-1:]
    elif damage == "longer":
        data += b"x"
    elif damage == "flipped":
        data[-500] ^= 1
    elif damage == "empty":
        data.clear()
    elif damage == "header":
        data[12:20] = b"\xff" * 8
    else:
        data[:] = payloads.path_of(PayloadKey("other", "p")).read_bytes()
    path.write_bytes(data)
    broken, fine = payloads.read([KEY, PayloadKey("other", "p")])
    assert isinstance(broken, DecodeError)
    assert broken.resource_id == "resource"
    assert fine == b"fine"


def test_no_text_of_a_user_gets_into_a_path(payloads: PayloadFiles, blobs: BlobFiles) -> None:
    folder = payloads.path_of(KEY).parents[2]
    for text in ("..", "../../etc/passwd", "/", "\0", "a" * 1024, "日本"):
        path = payloads.path_of(PayloadKey(text, text))
        assert path.parents[2] == folder
        assert path.name.isalnum()
        with pytest.raises(BlobNotFoundError):
            blobs.path_of(text)


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "trailer"])
def test_a_damaged_blob_file_is_told(blobs: BlobFiles, damage: str) -> None:
    info = blobs.put_bytes(os.urandom(1000), "a/b")
    path = blobs.path_of(info.file_id)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[500:600]
    elif damage == "flipped":
        data[-20] ^= 255
    elif damage == "empty":
        data.clear()
    else:
        data[-9] = 255
    path.write_bytes(data)
    with pytest.raises(BlobIntegrityError):
        blobs.stat(info.file_id)
    assert [found for folder in blobs.outer_folders() for found in blobs.scan(folder)] == []


def test_what_the_kernel_makes_up_on_reading_can_be_stored(blobs: BlobFiles) -> None:
    path = Path("/proc/self/status")
    info = blobs.put_file(path, "text/plain")
    assert info.size > 100


@pytest.mark.parametrize("size", [0, 100, 3 << 20])
def test_a_file_whose_blocks_can_be_shared_is_stored_the_same(
    blobs: BlobFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def share(target: int, request: int, source: int) -> int:
        assert request == 0x40049409
        os.pwrite(target, os.pread(source, size, 0), 0)
        return 0

    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))
    expected = blobs.put_file(source, "a/b")
    blobs.delete(expected.file_id)
    monkeypatch.setattr(fcntl, "ioctl", share)
    assert blobs.put_file(source, "a/b").file_id == expected.file_id
    blobs.save(expected.file_id, tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("size", [3 << 20, (3 << 20) + 1])
def test_much_at_once_needs_no_second_fsync_for_the_trailer(
    blobs: BlobFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))
    blobs.put_bytes(b"first", "a/b")
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    info = blobs.put_file(source, "a/b")
    # The whole file first, then folders only, and last that which names it.
    assert [Path(path).parent for path in synced[:1]] == [blobs.temps.path]
    assert all(Path(path).is_dir() for path in synced[1:])
    assert synced[-1] == str(blobs.path_of(info.file_id).parent)


def put_at_once(blobs: BlobFiles, data: bytes, _: Path) -> str:
    return blobs.put_bytes(data, "a/b").file_id


def put_from_file(blobs: BlobFiles, data: bytes, folder: Path) -> str:
    (folder / "source").write_bytes(data)
    return blobs.put_file(folder / "source", "a/b").file_id


def put_bit_by_bit(blobs: BlobFiles, data: bytes, _: Path) -> str:
    new = NewBlob(blobs.temps, "a/b")
    try:
        for start in range(0, len(data), 3 << 20):
            new.write(data[start : start + (3 << 20)])
        return blobs.keep(new).file_id
    finally:
        new.drop()


@pytest.mark.parametrize("put", [put_at_once, put_from_file, put_bit_by_bit])
@pytest.mark.parametrize("can", [True, False], ids=["started", "without"])
def test_a_large_blob_is_on_its_way_to_the_disk_before_the_fsync(
    blobs: BlobFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Callable[..., str], can: bool
) -> None:
    begun: list[tuple[int, int]] = []

    def start(descriptor: int, start: int, size: int) -> None:
        assert os.fstat(descriptor).st_size >= start + size
        begun.append((start, size))
        start_writing(descriptor, start, size)

    monkeypatch.setattr(new_blob, "start_writing", start)
    monkeypatch.setattr(NewBlob, "_clone", lambda *_: False)
    if not can:
        monkeypatch.setattr(durable, "_sync_file_range", lambda: None)
    data = os.urandom(1 << 20) * 20
    file_id = put(blobs, data, tmp_path)
    assert file_id == hashlib.sha256(data).hexdigest()
    assert blobs.get(file_id, 0, None, at_most=1 << 30) == data
    assert len(begun) == 2
    assert begun[0][0] == 0
    assert begun[1][0] == begun[0][1]
    assert 16 << 20 <= sum(begun[1]) <= 20 << 20


def test_what_cannot_be_started_is_left_to_the_fsync(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        start_writing(file.fileno(), 0, 1 << 20)  # more than there is
        start_writing(file.fileno(), -1, 1)
    read, write = os.pipe()
    try:
        start_writing(write, 0, 1)
    finally:
        os.close(read)
        os.close(write)
    start_writing(-1, 0, 1)
    assert durable._sync_file_range() is not None or not sys.platform.startswith("linux")
