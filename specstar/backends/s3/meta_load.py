"""Reading the object as a database: one that lies there whole, or a log with the base that it goes on from."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from specstar.backends.s3.connection import S3Connection
from specstar.backends.s3.meta_database import Copy
from specstar.backends.s3.meta_log import decode, is_log
from specstar.backends.s3.meta_object import Fetched, StoredObject
from specstar.backends.sqlite.database import Operation
from specstar.errors import BackendError, BackendUnavailable

__all__ = ["Loader", "Version"]

_ATTEMPTS = 10


class Version(NamedTuple):
    """A version of the object, as a database."""

    etag: str
    copy: Copy


class Loader:
    """Loads one object. Blocking work is done in threads."""

    def __init__(self, connection: S3Connection, stored: StoredObject, setup: Operation) -> None:
        self._connection = connection
        self._stored = stored
        self._setup = setup

    async def load(self, *, known: str | None = None, near: Copy | None = None) -> Version | None:
        """The newest version; None if there is no object. Raises `NotModified` if its ETag is still `known`.

        `near`: a copy that may be made newer by the changes alone.
        """
        missing: str | None = None
        for _ in range(_ATTEMPTS):
            fetched = await self._stored.fetch(known)
            if fetched is None:
                return None
            copy = await self._copy(fetched, near)
            if copy is not None:
                return Version(fetched.etag, copy)
            # Others have moved on to a new base meanwhile, and the old one is gone; or it was lost.
            if missing == fetched.etag:
                raise BackendError(
                    f"{self._stored.name}: the object with the base of its changes is gone; restore both from a backup"
                )
            missing = fetched.etag
        raise BackendUnavailable(
            f"{self._stored.name}: other processes change it faster than it can be read; retry later"
        )

    async def _copy(self, fetched: Fetched, near: Copy | None) -> Copy | None:
        """The database of a version; None if its base is not there."""
        in_thread, name = self._connection.in_thread, self._stored.name
        if not is_log(fetched.data):
            return await in_thread(partial(Copy.load, fetched.data, name, self._setup, verified=fetched.verified))
        log = await in_thread(partial(decode, fetched.data, name, verified=fetched.verified))
        if near is not None and (copy := await in_thread(near.follow, log)) is not None:
            return copy
        base = await self._stored.fetch_base(log.base.name)
        return None if base is None else await in_thread(Copy.load_log, base, log, name, self._setup)
