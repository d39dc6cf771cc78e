"""Upload sessions as folders: the announcement, and a file for each part, each of them durable before it counts.

`<root>/_blobs/_uploads/<id>/`: `session.json`, `part-00000000` and up, at the end `done.json`. Any process under the same
root may go on with a session. Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from specstar.backends.disk.blob_files import BlobFiles
from specstar.backends.disk.durable import FolderTree, disk_errors, fsync_folder, link_new, write_fully
from specstar.backends.disk.new_blob import UnreadableSource
from specstar.config.encoding import UNDECODABLE
from specstar.errors import BlobIntegrityError, BlobNotFoundError, OutcomeUnknownError
from specstar.roles import BlobInfo
from specstar.roles.uploads import being_finalized, finalized_already, no_session, not_announced, nothing_uploaded

__all__ = ["SessionLocked", "Uploads"]

_UPLOAD_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_SESSION = "session.json"
_DONE = "done.json"
_PART = "part-"
_PLACES_KEPT = 1000


class _Session(msgspec.Struct):
    content_type: str
    size: int | None
    created_time: datetime


class SessionLocked(Exception):
    """Someone else has the session in hand."""


class Uploads:
    """The sessions of one blob folder."""

    def __init__(self, files: BlobFiles) -> None:
        self._files = files
        self._folder = files.folder / "_uploads"
        self._tree = FolderTree(files.folder)
        # The next part of the sessions that this process has in hand: not to look through the folder for each.
        self._places: dict[str, int] = {}

    def create(self, content_type: str, size: int | None) -> str:
        """A new session; its id."""
        upload_id = secrets.token_hex(16)
        folder = self._folder / upload_id
        session = _Session(content_type=content_type, size=size, created_time=datetime.now(UTC))
        with disk_errors(folder):
            self._tree.make(self._folder)
            try:
                folder.mkdir()
            except FileNotFoundError:
                self._tree.forget(self._folder)
                self._tree.make(self._folder)
                folder.mkdir()
            self._store(folder / _SESSION, msgspec.json.encode(session))
            fsync_folder(folder)
            self._tree.settle([self._folder])
        return upload_id

    def append(self, upload_id: str, data: bytes) -> None:
        """Store one more part. Raises `BlobNotFoundError`, and `UsageError` once `finalize` has begun."""
        folder = self._known(upload_id)
        with disk_errors(folder):
            try:
                with _locked(folder / _SESSION, fcntl.LOCK_SH | fcntl.LOCK_NB):
                    if (folder / _DONE).exists():
                        raise finalized_already(upload_id)
                    place = self._places.get(upload_id)
                    if place is None:
                        place = len(self._parts(folder))
                    place = self._store_part(folder, place, data)
                    self._settle_part(folder, place)
                    self._remember(upload_id, 1 + place)
            except FileNotFoundError:
                raise no_session(upload_id) from None
            except SessionLocked:
                raise being_finalized(upload_id) from None

    def _remember(self, upload_id: str, place: int) -> None:
        """Where this process goes on. What is forgotten is found again in the folder."""
        self._places[upload_id] = place
        while len(self._places) > _PLACES_KEPT:
            with suppress(StopIteration, RuntimeError):  # other threads change it, too
                self._places.pop(next(iter(self._places)), None)

    def finalize(self, upload_id: str) -> BlobInfo:
        """Join the parts to a blob.

        Raises `BlobNotFoundError`, also if the blob was deleted since it was made, `BlobIntegrityError`, and
        `SessionLocked` while parts are on their way, or another one joins them.
        """
        folder = self._known(upload_id)
        with disk_errors(folder):
            try:
                # Keeps more parts from coming, until its end or that of its process.
                with _locked(folder / _SESSION, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    finished = self._finished(folder)
                    info = self._finish(folder, upload_id) if finished is None else self._files.stat(finished.file_id)
            except FileNotFoundError:
                raise no_session(upload_id) from None  # aborted at this moment
            except UnreadableSource as error:
                raise error.reason from error
            except UNDECODABLE as error:
                raise BlobIntegrityError(f"the session of upload {upload_id} is damaged: abort it") from error
        self._places.pop(upload_id, None)
        return info

    def _finished(self, folder: Path) -> BlobInfo | None:
        try:
            return msgspec.json.decode((folder / _DONE).read_bytes(), type=BlobInfo)
        except FileNotFoundError:
            return None

    def _finish(self, folder: Path, upload_id: str) -> BlobInfo:
        session = msgspec.json.decode((folder / _SESSION).read_bytes(), type=_Session)
        info = self._join(folder, session, upload_id)
        self._store(folder / _DONE, msgspec.json.encode(info))
        fsync_folder(folder)
        for part in self._parts(folder):
            part.unlink(missing_ok=True)
        return info

    def _join(self, folder: Path, session: _Session, upload_id: str) -> BlobInfo:
        parts = self._parts(folder)
        if not parts and session.size != 0:
            raise nothing_uploaded(upload_id)
        received = sum(part.stat().st_size for part in parts)
        if session.size is not None and received != session.size:
            raise not_announced(upload_id, announced=session.size, received=received)
        return self._files.put_open(_opened(parts, upload_id), session.content_type, size=received)

    def abort(self, upload_id: str) -> None:
        """Remove a session; an unknown one is ignored."""
        self._places.pop(upload_id, None)
        try:
            folder = self._known(upload_id)
        except BlobNotFoundError:
            return
        with disk_errors(folder):
            # First what makes it known; what a concurrent `append` may still add is garbage.
            (folder / _SESSION).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self, older_than: float) -> int:
        """Remove sessions in which nothing happened for `older_than` seconds, and nobody has in hand; returns how many."""
        limit = time.time() - older_than
        removed = 0
        with disk_errors(self._folder):
            try:
                folders = list(self._folder.iterdir())
            except FileNotFoundError:
                return 0
            for folder in folders:
                with suppress(FileNotFoundError, SessionLocked):
                    if folder.stat().st_mtime <= limit:
                        removed += self._sweep_one(folder, limit)
        return removed

    def _sweep_one(self, folder: Path, limit: float) -> bool:
        try:
            with _locked(folder / _SESSION, fcntl.LOCK_EX | fcntl.LOCK_NB):
                # Again: this process may have stood still before it had the lock.
                if folder.stat().st_mtime > limit:
                    return False
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:
            shutil.rmtree(folder, ignore_errors=True)  # what an abort that was killed has left
        return True

    def _known(self, upload_id: str) -> Path:
        if not isinstance(upload_id, str) or _UPLOAD_ID.fullmatch(upload_id) is None:
            raise no_session(upload_id)
        folder = self._folder / upload_id
        if not (folder / _SESSION).exists():
            raise no_session(upload_id)
        return folder

    def _parts(self, folder: Path) -> list[Path]:
        return sorted(path for path in folder.iterdir() if path.name.startswith(_PART))

    def _store(self, path: Path, data: bytes) -> None:
        """Write a file, whole or not at all."""
        with self._written(data) as temporary:
            temporary.replace(path)

    def _store_part(self, folder: Path, place: int, data: bytes) -> int:
        """The same under the next number from `place` on that is free; returns the number."""
        with self._written(data) as temporary:
            while not link_new(temporary, folder / f"{_PART}{place:08d}", alone=True):
                place += 1
        return place

    def _settle_part(self, folder: Path, place: int) -> None:
        """Make the name of a part durable. What fails leaves no part: it would be there twice when it is sent again."""
        try:
            fsync_folder(folder)
        except OSError as error:
            try:
                (folder / f"{_PART}{place:08d}").unlink()
            except OSError:
                message = f"whether the bytes belong to upload {folder.name} is not known: {error.strerror}; abort it"
                raise OutcomeUnknownError(message, role="blob", backend="disk") from error
            raise

    @contextmanager
    def _written(self, data: bytes) -> Iterator[Path]:
        descriptor, temporary = self._files.temps.create()
        try:
            try:
                write_fully(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            yield temporary
        finally:
            self._files.temps.drop(temporary)


def _opened(parts: Sequence[Path], upload_id: str) -> Iterator[int]:
    """The parts, open one at a time: there may be more than descriptors."""
    for part in parts:
        try:
            source = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise no_session(upload_id) from None  # aborted at this moment
        try:
            yield source
        finally:
            os.close(source)


@contextmanager
def _locked(path: Path, how: int) -> Iterator[None]:
    """Hold a lock of a file, which ends with this process at the latest. Raises `SessionLocked`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            raise SessionLocked from None
        try:
            yield
        finally:
            # Closing is not enough: a child that was forked meanwhile shares the lock.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
