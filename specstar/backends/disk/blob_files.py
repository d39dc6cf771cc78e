"""Blobs as files: the content, then a short trailer with type and time, so that one rename makes both visible at once.

`<root>/_blobs/ab/cd/<sha256>`: content, metadata as JSON, its length in four bytes, eight bytes of magic.
Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec

from specstar.backends.disk.durable import (
    FolderTree,
    TempFolder,
    disk_errors,
    fsync_folder,
    link_new,
    read_fully,
    write_fully,
)
from specstar.config.encoding import UNDECODABLE
from specstar.errors import BackendUnavailable, BlobIntegrityError, BlobNotFoundError, InvalidInputError
from specstar.roles import BlobInfo

__all__ = ["BlobFile", "BlobFiles", "NewBlob"]

_MAGIC = b"SPCBLOB1"
_LENGTH = struct.Struct(">I")
_FOOTER = _LENGTH.size + len(_MAGIC)
_TAIL = 512
_MAX_TRAILER = 4096
_FILE_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PIECE = 1 << 20
_COPY = 8 << 20
# Below this a second thread costs more than it saves.
_PARALLEL = 1 << 20
_NO_COPY = frozenset({errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM})


class _Trailer(msgspec.Struct):
    size: int
    content_type: str
    created_time: datetime


_decode_trailer = msgspec.json.Decoder(_Trailer).decode


class BlobFile:
    """An open blob: close its descriptor."""

    __slots__ = ("descriptor", "info")

    def __init__(self, descriptor: int, info: BlobInfo) -> None:
        self.descriptor = descriptor
        self.info = info


class NewBlob:
    """A blob being written to a temporary file by one thread at a time. Ends with `BlobFiles.keep`, or `drop`."""

    def __init__(self, temps: TempFolder) -> None:
        with disk_errors(temps.path):
            self.descriptor, self.path = temps.create()
        self.size = 0
        self.digest = hashlib.sha256()
        self._open = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append, and hash."""
        with disk_errors(self.path):
            write_fully(self.descriptor, data)
        self.digest.update(data)
        self.size += len(data)

    def write_all(self, data: bytes) -> None:
        """Append much at once: the hash runs beside."""
        if len(data) < _PARALLEL:
            self.write(data)
            return
        with disk_errors(self.path), _beside(self.digest.update, data):
            write_fully(self.descriptor, data)
            # While the hash goes on; the fsync of the trailer then has little left to do.
            os.fsync(self.descriptor)
        self.size += len(data)

    def copy(self, sources: Sequence[int]) -> None:
        """Append the rest of open files, in the kernel where it can; the hash follows on what has been copied."""
        copied: SimpleQueue[int | None] = SimpleQueue()
        with disk_errors(self.path), _beside(self._follow, copied):
            try:
                for source in sources:
                    while count := self._copy_some(source):
                        self.size += count
                        copied.put(self.size)
            finally:
                copied.put(None)
            if self.size >= _PARALLEL:
                # While the hash goes on; the fsync of the trailer then has little left to do.
                os.fsync(self.descriptor)

    def _copy_some(self, source: int) -> int:
        try:
            count = os.copy_file_range(source, self.descriptor, _COPY)
        except OSError as error:
            if error.errno not in _NO_COPY:
                raise
        else:
            if count:
                return count
        # Also where the kernel claims that there is nothing: it does so for files that are made up on reading.
        piece = os.read(source, _PIECE)
        write_fully(self.descriptor, piece)
        return len(piece)

    def _follow(self, copied: SimpleQueue[int | None]) -> None:
        buffer = memoryview(bytearray(_PIECE))
        place = 0
        while (end := copied.get()) is not None:
            while place < end:
                count = os.preadv(self.descriptor, [buffer[: min(_PIECE, end - place)]], place)
                if count == 0:
                    raise OSError(errno.EIO, "the copy became shorter while it was written", str(self.path))
                self.digest.update(buffer[:count])
                place += count

    def finish(self, content_type: str) -> BlobInfo:
        """Write the trailer and make the file durable."""
        with disk_errors(self.path):
            trailer = _Trailer(size=self.size, content_type=content_type, created_time=datetime.now(UTC))
            packed = msgspec.json.encode(trailer)
            write_fully(self.descriptor, b"".join((packed, _LENGTH.pack(len(packed)), _MAGIC)))
            os.fsync(self.descriptor)
        return _info(self.digest.hexdigest(), trailer)

    def drop(self) -> None:
        """Close and remove the temporary file; once more does nothing."""
        if self._open:
            self._open = False
            with suppress(OSError):
                os.close(self.descriptor)
            with suppress(OSError):
                self.path.unlink()


class BlobFiles:
    """All blobs under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temps = TempFolder(folder / "_tmp")
        self._tree = FolderTree(folder)

    def path_of(self, file_id: str) -> Path:
        """Where a blob lies. Raises `BlobNotFoundError` for what is no SHA-256: no text of a user gets into a path."""
        if not isinstance(file_id, str) or _FILE_ID.fullmatch(file_id) is None:
            raise BlobNotFoundError(file_id)
        return self.folder / file_id[:2] / file_id[2:4] / file_id

    def put_bytes(self, data: bytes, content_type: str) -> BlobInfo:
        """Store bytes, durably."""
        if len(data) < _PARALLEL:
            known = self._known(hashlib.sha256(data).hexdigest())
            if known is not None:
                return known
        new = NewBlob(self.temps)
        try:
            new.write_all(data)
            return self.keep(new, content_type)
        finally:
            new.drop()

    def put_file(self, path: Path, content_type: str) -> BlobInfo:
        """Store a copy of a file, durably. Raises `InvalidInputError` if it cannot be read."""
        try:
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise InvalidInputError(f"cannot read {path}: {reason}", field="path") from error
        try:
            if path.is_dir():
                raise InvalidInputError(f"cannot read {path}: it is a folder", field="path")
            return self.put_open([source], content_type)
        finally:
            os.close(source)

    def put_open(self, sources: Sequence[int], content_type: str, *, size: int | None = None) -> BlobInfo:
        """Store what open files hold, one after the other. Raises `BlobIntegrityError` if it is not `size` bytes."""
        new = NewBlob(self.temps)
        try:
            new.copy(sources)
            if size is not None and new.size != size:
                raise BlobIntegrityError(f"{size} bytes were announced, {new.size} received")
            return self.keep(new, content_type)
        finally:
            new.drop()

    def keep(self, new: NewBlob, content_type: str) -> BlobInfo:
        """Give a written file its name; the info of the blob that is there already, if its content is not new."""
        info = new.finish(content_type)
        path = self.path_of(info.file_id)
        for _ in range(3):
            with disk_errors(path):
                self._tree.make(path.parent)
                try:
                    fresh = link_new(new.path, path)
                except FileNotFoundError:
                    self._tree.forget(path.parent)
                    continue
                self._tree.settle([path.parent])
            if fresh:
                return info
            with suppress(BlobNotFoundError):  # deleted at this moment: try again
                return self.stat(info.file_id)
        raise BackendUnavailable(f"{path}: removed by others again and again; repeat the call", backend="disk")

    def _known(self, file_id: str) -> BlobInfo | None:
        try:
            info = self.stat(file_id)
        except (BlobNotFoundError, BlobIntegrityError):
            return None
        with disk_errors(self.folder):
            # Whoever wrote it may not have come to this yet.
            self._tree.settle([self.path_of(file_id).parent])
        return info

    def open(self, file_id: str) -> BlobFile:
        """Open a blob. Raises `BlobNotFoundError`, and `BlobIntegrityError` for a damaged file."""
        path = self.path_of(file_id)
        with disk_errors(path):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                raise BlobNotFoundError(file_id) from None
            try:
                return BlobFile(descriptor, _read_trailer(descriptor, file_id))
            except BaseException:
                os.close(descriptor)
                raise

    def stat(self, file_id: str) -> BlobInfo:
        """What the trailer says. Raises like `open`."""
        file = self.open(file_id)
        os.close(file.descriptor)
        return file.info

    def delete(self, file_id: str) -> None:
        """Remove a blob, durably. Raises `BlobNotFoundError`."""
        path = self.path_of(file_id)
        with disk_errors(path):
            try:
                path.unlink()
            except FileNotFoundError:
                raise BlobNotFoundError(file_id) from None
            fsync_folder(path.parent)

    def outer_folders(self) -> list[Path]:
        """The first level of folders, for `scan`."""
        with disk_errors(self.folder):
            try:
                return sorted(path for path in self.folder.iterdir() if len(path.name) == 2)
            except FileNotFoundError:
                return []

    def scan(self, folder: Path) -> list[BlobInfo]:
        """All blobs in one of the outer folders. Damaged files are left out."""
        found: list[BlobInfo] = []
        with disk_errors(folder):
            for _, _, names in os.walk(folder):
                for name in names:
                    with suppress(BlobNotFoundError, BlobIntegrityError):
                        found.append(self.stat(name))
        return found


def _read_trailer(descriptor: int, file_id: str) -> BlobInfo:
    whole = os.fstat(descriptor).st_size
    tail = read_fully(descriptor, min(_TAIL, whole), max(whole - _TAIL, 0))
    if len(tail) >= _FOOTER and tail.endswith(_MAGIC):
        (length,) = _LENGTH.unpack_from(tail, len(tail) - _FOOTER)
        start = whole - _FOOTER - length
        if length <= _MAX_TRAILER and start >= 0:
            with suppress(*UNDECODABLE):
                trailer = _decode_trailer(read_fully(descriptor, length, start))
                if trailer.size == start:
                    return _info(file_id, trailer)
    raise BlobIntegrityError(f"blob {file_id} is damaged; delete it, and put its content again", file_id=file_id)


def _info(file_id: str, trailer: _Trailer) -> BlobInfo:
    return BlobInfo(
        file_id=file_id, size=trailer.size, content_type=trailer.content_type, created_time=trailer.created_time
    )


@contextmanager
def _beside(function: Callable[[Any], None], argument: Any) -> Iterator[None]:
    """Run a function in a thread of its own while the block runs; its error is raised at the end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function(argument)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="specstar-hash", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if errors:
        raise errors[0]
