"""Blobs as files: the content, then a short trailer with type and time, so that one rename makes both visible at once.

`<root>/_blobs/ab/cd/<sha256>`.
Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from specstar.backends.checksums import Check
from specstar.backends.disk.blob_copy import copy_out
from specstar.backends.disk.blob_trailer import BlobFile, damaged, read_trailer
from specstar.backends.disk.durable import FolderTree, TempFolder, disk_errors, fsync_folder, link_new, read_fully
from specstar.backends.disk.new_blob import PARALLEL, NewBlob, UnreadableSource
from specstar.errors import BackendError, BackendUnavailable, BlobIntegrityError, BlobNotFoundError
from specstar.roles import BlobInfo
from specstar.roles.blob import open_source, unreadable
from specstar.runtime import NewFile

__all__ = ["BlobFiles"]

logger: logging.Logger = logging.getLogger("specstar")
_FILE_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)


class BlobFiles:
    """All blobs under one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temps: TempFolder = TempFolder(folder / "_tmp")
        self.writing: set[NewBlob] = set()
        """Blobs that are being written bit by bit at the moment."""
        self._tree = FolderTree(folder)

    def sweep(self, older_than: float) -> int:
        """Remove temporary files that nobody has written to for `older_than` seconds; returns how many."""
        return self.temps.sweep(older_than)

    def path_of(self, file_id: str) -> Path:
        """Where a blob lies. Raises `BlobNotFoundError` for what is no SHA-256: no text of a user gets into a path."""
        if not isinstance(file_id, str) or _FILE_ID.fullmatch(file_id) is None:
            raise BlobNotFoundError(file_id)
        return self.folder / file_id[:2] / file_id[2:4] / file_id

    def put_bytes(self, data: bytes, content_type: str) -> BlobInfo:
        """Store bytes, durably."""
        if len(data) < PARALLEL:
            known = self._known(hashlib.sha256(data).hexdigest())
            if known is not None:
                return known
        new = NewBlob(self.temps, content_type)
        try:
            new.write_all(data)
            return self.keep(new)
        finally:
            new.drop()

    def put_file(self, path: Path, content_type: str) -> BlobInfo:
        """Store a copy of a file, durably. Raises `InvalidInputError` if it cannot be read."""
        source = open_source(path)
        try:
            return self.put_open([source], content_type, clone=True)
        except UnreadableSource as error:
            raise unreadable(path, error.reason) from error
        finally:
            os.close(source)

    def put_open(
        self, sources: Iterable[int], content_type: str, *, clone: bool = False, size: int | None = None
    ) -> BlobInfo:
        """Store what open files hold, one after the other; each may be closed when the next is asked for.

        `clone`: there is one, whose blocks may be shared. Raises `BlobIntegrityError` if it is not `size` bytes,
        `UnreadableSource`.
        """
        new = NewBlob(self.temps, content_type)
        try:
            new.copy(sources, clone=clone)
            if size is not None and new.size != size:
                raise BlobIntegrityError(f"{size} bytes were announced, {new.size} received")
            return self.keep(new)
        finally:
            new.drop()

    def keep(self, new: NewBlob) -> BlobInfo:
        """Give a written file its name; the info of the blob that is there already, if its content is not new."""
        info = new.finish()
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
                known = self._whole(info.file_id)
                if known is None:
                    logger.warning("%s was damaged; it is replaced by the same content put again", path)
                    with disk_errors(path):
                        new.path.replace(path)
                        self._tree.settle([path.parent])
                return known or info
        raise BackendUnavailable(f"{path}: removed by others again and again; repeat the call", backend="disk")

    def _whole(self, file_id: str) -> BlobInfo | None:
        """The blob that is there, None if it is damaged: then putting its content again mends it. Raises
        `BlobNotFoundError`.
        """
        try:
            file = self.open(file_id)
        except BlobIntegrityError:
            return None
        try:
            copy_out(file, _nowhere)
            return file.info
        except BlobIntegrityError:
            return None
        except BackendError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno == errno.EIO:
                return None  # a sector that cannot be read
            raise
        finally:
            os.close(file.descriptor)

    def _known(self, file_id: str) -> BlobInfo | None:
        try:
            info = self._whole(file_id)
        except BlobNotFoundError:
            return None
        if info is None:
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
                return read_trailer(descriptor, file_id)
            except BaseException:
                os.close(descriptor)
                raise

    def save(self, file_id: str, path: Path) -> BlobInfo:
        """Copy a blob to a file of the user's, checked. Raises like `open`, and like `NewFile`."""
        file = self.open(file_id)
        try:
            new = NewFile(path)
            try:
                copy_out(file, new.write)
                new.keep()
            finally:
                new.drop()
        finally:
            os.close(file.descriptor)
        return file.info

    def get(self, file_id: str, start: int, end: int | None, *, at_most: int) -> bytes | None:
        """The bytes of a range, checked if they are the whole; None if it has more than `at_most`. Raises like `open`."""
        file = self.open(file_id)
        try:
            size = file.info.size
            start, end = max(start, 0), size if end is None else min(end, size)
            length = max(end - start, 0)
            if length > at_most:
                return None
            if not length:
                return b""
            with disk_errors(file_id):
                data = read_fully(file.descriptor, length, start)
            if len(data) < length:
                raise damaged(file_id)
            if length == size:
                check = Check(file_id, file.xxh3)
                check.update(data)
                if not check.passed():
                    raise damaged(file_id)
            return data
        finally:
            os.close(file.descriptor)

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


def _nowhere(_data: memoryview) -> None:
    """For a copy that is only to be checked."""
