"""Durable files: what is renamed into place is whole, and stays after a power loss.

Protocol: a temporary file made with O_EXCL on the same file system, written, fsynced; renamed (or linked) to its name; then
the folder is fsynced, and every folder that was made on the way, in its parent. A failed fsync fails the operation and is
never repeated: the kernel may have dropped the pages that it could not write, and would report success the second time.
Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from specstar.errors import BackendError, BackendUnavailable

__all__ = [
    "FolderTree",
    "TempFolder",
    "disk_errors",
    "fsync_folder",
    "fsync_folders",
    "link_new",
    "make_folder",
    "read_fully",
    "start_writing",
    "write_fully",
]

_STEPS = {
    errno.ENOSPC: "free some space, then repeat the call",
    errno.EDQUOT: "the quota is used up: free some space or raise it, then repeat the call",
    errno.EROFS: "the file system is mounted read-only: mount it for writing (after an error of the disk, check that first)",
    errno.EACCES: "give this user the permission, or choose another rootdir",
    errno.EPERM: "give this user the permission, or choose another rootdir",
    errno.EIO: "the disk reported an error: check it (dmesg, smartctl) before going on",
    errno.ENOTDIR: "a file is where a folder is needed: choose another rootdir",
    errno.EEXIST: "a file is where a folder is needed: choose another rootdir",
    errno.EMFILE: "this process has too many open files: raise the limit (ulimit -n)",
    errno.ENFILE: "the system has too many open files",
    errno.EXDEV: "link or mount the whole rootdir elsewhere, not a part of it: files are renamed from _tmp to their places",
    errno.ENAMETOOLONG: "choose a shorter rootdir",
    errno.ESTALE: "the network file system lost the file: rootdir belongs on a local disk",
}
_TEMPORARY = frozenset({errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM})
_SYNC_FILE_RANGE_WRITE = 2
# File systems that answer fsync of a folder, or link, with these do not have it.
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
_NO_LINKS = _UNSUPPORTED | {errno.EPERM, errno.EMLINK, errno.EXDEV}


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Turn an `OSError` into a `BackendError` that says path, reason and next step."""
    try:
        yield
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else str(path)
        step = _STEPS.get(error.errno or 0)
        message = f"{where}: {error.strerror or error}" + (f"; {step}" if step else "")
        kind = BackendUnavailable if error.errno in _TEMPORARY else BackendError
        raise kind(message, backend="disk") from error


def write_fully(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of it, however little the system takes at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def start_writing(descriptor: int, start: int, size: int) -> None:
    """Have the system begin to write these bytes to the disk, where it can: fsync, which must follow, has less to wait for.

    An error of the disk is for fsync to tell.
    """
    sync_file_range = _sync_file_range()
    if sync_file_range is not None:
        sync_file_range(descriptor, start, size, _SYNC_FILE_RANGE_WRITE)


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """The function of Linux, None elsewhere: Python has no name for it."""
    try:
        function = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError, TypeError):
        return None
    function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return function


def read_fully(descriptor: int, size: int, offset: int) -> bytes:
    """`size` bytes from `offset` on, fewer only at the end of the file."""
    data = os.pread(descriptor, size, offset)
    if len(data) == size or not data:
        return data
    parts = [data]
    missing = size - len(data)
    while missing and (data := os.pread(descriptor, missing, offset + size - missing)):
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


def fsync_folder(path: str | Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def fsync_folders(folders: Iterable[Path]) -> None:
    """Make the entries of these folders durable, outermost first."""
    for folder in sorted(set(folders), key=lambda path: len(path.parts)):
        fsync_folder(folder)


def make_folder(path: Path) -> None:
    """Make a folder with its parents, durably: each before what is in it, so that one that is there is settled."""
    missing: list[Path] = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        try:
            fsync_folder(folder.parent)
        except OSError:
            with suppress(OSError):
                folder.rmdir()
            raise


class FolderTree:
    """The folders under a base that files are put into, made when first needed."""

    def __init__(self, base: Path) -> None:
        self.base = base
        # Those whose names are known to be durable. One that is there may be another process's, not yet fsynced.
        self._durable: set[Path] = set()

    def make(self, folder: Path) -> None:
        """See that a folder is there."""
        if folder not in self._durable:
            try:
                folder.mkdir(exist_ok=True)
            except FileNotFoundError:
                self.forget(folder)
                folder.mkdir(parents=True, exist_ok=True)

    def settle(self, folders: Iterable[Path]) -> None:
        """Make the entries of these folders durable, and the names of the folders themselves."""
        touched = set(folders)
        fresh = {place for folder in touched - self._durable for place in self._upwards(folder)} - self._durable
        fsync_folders(touched | {folder.parent for folder in fresh})
        self._durable |= fresh

    def forget(self, folder: Path) -> None:
        """A folder that was durable has been removed by somebody, maybe with those above it."""
        self._durable.difference_update(self._upwards(folder))

    def _upwards(self, folder: Path) -> Iterator[Path]:
        """The folder and those above it, up to the base."""
        yield folder
        for above in folder.parents:
            if not above.is_relative_to(self.base):
                return
            yield above


def link_new(source: Path, target: Path, *, alone: bool = False) -> bool:
    """Give a file a second name; False if that name is taken. Where links are missing: rename, over what is there.

    `alone`: not over what is there either. A program that is killed in between leaves an empty file then.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if alone:
            try:
                os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            except FileExistsError:
                return False
        source.replace(target)
    return True


class TempFolder:
    """A folder of temporary files on the file system of the data; what killed writers left there is swept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._in_use: set[Path] = set()

    def prepare(self) -> None:
        """Make the folder, durably."""
        make_folder(self.path)

    def create(self) -> tuple[int, Path]:
        """A new file, open for reading and writing, and its path. It is not swept before `drop`."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
        while True:
            path = self.path / f"{os.getpid()}-{secrets.token_hex(12)}"
            self._in_use.add(path)
            try:
                return os.open(path, flags, 0o666), path
            except OSError as error:
                self._in_use.discard(path)
                if isinstance(error, FileNotFoundError):
                    self.prepare()
                elif not isinstance(error, FileExistsError):
                    raise

    def drop(self, path: Path) -> None:
        """A file of `create` is done with: removed, unless it was renamed."""
        with suppress(OSError):
            path.unlink(missing_ok=True)
        self._in_use.discard(path)

    def sweep(self, older_than: float) -> int:
        """Remove files not written to for `older_than` seconds, but none that is in use here; returns how many."""
        limit = time.time() - older_than
        removed = 0
        try:
            entries = list(os.scandir(self.path))
        except FileNotFoundError:
            return 0
        for entry in entries:
            # Another process may sweep, or finish its file, at the same moment.
            with suppress(FileNotFoundError):
                if (
                    entry.is_file(follow_symlinks=False)
                    and entry.stat(follow_symlinks=False).st_mtime <= limit
                    and Path(entry.path) not in self._in_use
                ):
                    os.unlink(entry.path)  # noqa: PTH108  entries give plain paths
                    removed += 1
        return removed
