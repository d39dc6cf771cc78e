"""One push of the database, until it is known how it ended: it landed, somebody else was first, or nobody can tell."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Coroutine
from typing import Any, NamedTuple

from specstar.backends.s3.connection import S3Connection
from specstar.backends.s3.errors import (
    ConditionalConflict,
    NotModified,
    ObjectMissing,
    PreconditionFailed,
    RequestFailed,
)
from specstar.backends.s3.meta_database import Copy
from specstar.backends.s3.meta_load import Loader
from specstar.backends.s3.meta_log import Commit, Snapshot
from specstar.backends.s3.meta_object import StoredObject
from specstar.errors import BackendError, BackendUnavailable, OutcomeUnknownError, SpecstarError

__all__ = ["Foreign", "Landed", "Pusher", "deleted", "pause"]

logger: logging.Logger = logging.getLogger("specstar")

_SWEEP_EVERY = 64


class Landed(NamedTuple):
    """The push is in the object. `copy`: a later version that was read and has it; None: the object is what was pushed."""

    etag: str
    copy: Copy | None


class Foreign(NamedTuple):
    """The push is not in the object and never will be: somebody else's version, read here, took its place."""

    etag: str
    copy: Copy


class Pusher:
    """Pushes to one object. Sources of the rules: `docs/s3.md`."""

    def __init__(
        self,
        connection: S3Connection,
        stored: StoredObject,
        loader: Loader,
        *,
        locked: bool,
        attempts: int,
        seconds: float,
    ) -> None:
        self._connection = connection
        self._stored = stored
        self._loader = loader
        self._locked = locked
        self._attempts = attempts
        self.seconds = seconds
        self._bases = 0

    async def push(self, snapshot: Snapshot, *, replaces: str | None, near: Copy | None) -> Landed | Foreign:
        """Push until the outcome is known.

        `near`: the version that is to be replaced, where we have it. Raises `OutcomeUnknownError` if it cannot be found out,
        and the error of the server if nothing was stored for sure.
        """
        if self._locked:
            await self._stored.probe()
        if snapshot.base is None:
            return await self._push(snapshot, replaces, near)
        base, data = snapshot.base
        await self._stored.put_base(base.name, data, base.sha256)
        try:
            outcome = await self._push(snapshot, replaces, near)
        except OutcomeUnknownError:
            raise
        except SpecstarError:
            self._remove(base.name)
            raise
        if isinstance(outcome, Foreign):
            self._remove(base.name)
        else:
            self._tidy(snapshot, base.name)
        return outcome

    def _tidy(self, snapshot: Snapshot, newest: str) -> None:
        """A new base is in use: remove the one before the last, and now and then what killed writers left."""
        if snapshot.obsolete is not None:
            self._remove(snapshot.obsolete)
        if self._bases % _SWEEP_EVERY == 0:
            self._later(self._stored.sweep_bases(newest, snapshot.needed), "what killed writers left")
        self._bases += 1

    def _remove(self, name: str) -> None:
        self._later(self._stored.delete_base(name), name)

    def _later(self, work: Coroutine[Any, Any, None], what: str) -> None:
        async def logged() -> None:
            try:
                await work
            except SpecstarError as error:
                logger.info("%s: %s is left to a later sweep: %s", self._stored.name, what, error)

        self._connection.start(logged())

    async def _push(self, snapshot: Snapshot, replaces: str | None, near: Copy | None) -> Landed | Foreign:
        deadline = asyncio.get_running_loop().time() + self.seconds
        # Set once a request may have reached the server and its answer is not known: it may land at any later time,
        # until the version that it replaces is gone.
        doubt: BackendError | None = None
        attempt = failures = 0
        while True:
            attempt += 1
            try:
                if not self._locked and replaces is not None and await self._stored.head() is None:
                    raise deleted(self._stored.name)
                etag = await self._stored.push(snapshot.data, snapshot.sha256, replaces=replaces, locked=self._locked)
                return Landed(etag, None)
            except (PreconditionFailed, ConditionalConflict, ObjectMissing) as error:
                reason: BackendError = error
            except RequestFailed as error:
                reason = error
                failures += 1
                if error.sent:
                    doubt = error
            except SpecstarError as error:
                if doubt is not None:
                    raise self._unknown(error) from error
                raise
            found = await self._look(reason, doubt, snapshot.commit, replaces, near)
            if found is not None:
                return found
            logger.info("%s: push %d was not taken (%s); again", self._stored.name, attempt, type(reason).__name__)
            if failures >= self._attempts or asyncio.get_running_loop().time() >= deadline:
                if doubt is not None:
                    raise self._unknown(doubt) from doubt
                if isinstance(reason, BackendUnavailable):
                    raise reason
                raise BackendUnavailable(
                    f"{self._stored.name}: not pushed within {self.seconds:g} s, other requests on the object were in the way; "
                    "nothing was stored, retry later"
                ) from reason
            await pause(attempt)

    async def _look(
        self,
        reason: BackendError,
        doubt: BackendError | None,
        commit: Commit,
        replaces: str | None,
        near: Copy | None,
    ) -> Landed | Foreign | None:
        """Read the object and look for our push in it. None: it is still the version that we meant to replace."""
        if isinstance(reason, RequestFailed) and not reason.sent and doubt is None:
            return None
        try:
            found = await self._loader.load(known=replaces, near=near)
            landed = await self._connection.in_thread(found.copy.holds, commit) if found is not None else False
        except NotModified:
            return None
        except SpecstarError as error:
            # 412, too, leaves a doubt: something between us and the server may have sent the request twice.
            raise self._unknown(error) from error
        if found is None:
            if replaces is None:
                return None
            raise deleted(self._stored.name)
        etag, copy = found
        if landed:
            logger.info(
                "%s: the push had landed although it was answered with %s", self._stored.name, type(reason).__name__
            )
            return Landed(etag, copy)
        if landed is False and self._locked:
            return Foreign(etag, copy)
        await self._connection.in_thread(copy.close)
        if not self._locked:
            return None
        raise OutcomeUnknownError(
            f"{self._stored.name}: the answer to a push was lost, and others pushed so often since that nobody can tell"
        )

    def _unknown(self, error: SpecstarError) -> OutcomeUnknownError:
        return OutcomeUnknownError(
            f"{self._stored.name}: the answer to a push was lost, and the object could not be read to find out: {error}"
        )


async def pause(attempt: int) -> None:
    """Wait a little, at random. Never long: of the writers that collide one gets on, and who waits longer starves."""
    await asyncio.sleep(random.uniform(0, min(0.1, 0.005 * 2 ** min(attempt, 8))))


def deleted(name: str) -> BackendError:
    """The error for an object that was there and is gone."""
    return BackendError(
        f"{name}: the metadata object was deleted by someone else; nothing was written. Restore it, or restart the program to "
        "begin with an empty database"
    )
