"""A file of the user's being written: it has its name once it is whole. Blocks: use it in a thread."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from specstar.errors import InvalidInputError

__all__ = ["NewFile"]


class NewFile:
    """Written beside its place under another name, until `keep` puts it there, over what was there, whose owner (as
    far as that is ours to give) and permissions it takes. Ends with `drop`.

    No fsync: a power loss may take it. Raises `InvalidInputError` where it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._named = self._path = path
        before: os.stat_result | None = None
        with self._told():
            if "\0" in str(path):
                raise ValueError("the name contains a NUL character")
            # A link stays one: what it names is replaced.
            path = self._path = Path(os.path.realpath(path))
            with suppress(FileNotFoundError):
                before = path.stat()
                # A device or a pipe would be replaced by a file, too.
                if not stat.S_ISREG(before.st_mode):
                    raise ValueError("what is there is no ordinary file")
            self._temporary = path.with_name(f".specstar-{secrets.token_hex(8)}")
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor: int | None = os.open(self._temporary, flags, 0o666)
            try:
                if before is not None:
                    self._take_after(before, self._descriptor)
            except BaseException:
                self.drop()
                raise

    @staticmethod
    def _take_after(before: os.stat_result, descriptor: int) -> None:
        """Owner and permissions, as far as the system allows: an owner outside our user namespace cannot be given."""
        made = os.fstat(descriptor)
        if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
            with suppress(OSError):
                os.fchown(descriptor, before.st_uid, before.st_gid)
        with suppress(OSError):
            # Without set-user-id and its like: these bytes are somebody else's.
            os.fchmod(descriptor, stat.S_IMODE(before.st_mode) & 0o777)

    def write(self, data: bytes | memoryview) -> None:
        """Append all of it."""
        assert self._descriptor is not None
        rest = memoryview(data)
        with self._told():
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def keep(self) -> None:
        """Give it its name."""
        with self._told():
            self._close()
            self._temporary.replace(self._path)

    def drop(self) -> None:
        """Remove what was not kept; afterwards, and once more, does nothing."""
        with suppress(OSError):
            self._close()
        with suppress(OSError):
            self._temporary.unlink()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise InvalidInputError(f"cannot write {self._named}: {reason}", field="path") from error
