"""Metadata of one model between this process and the bucket: group commit, replay, and reads that notice foreign writes."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

from specstar.backends.s3.connection import S3Connection
from specstar.backends.s3.errors import NotModified, foreign_write
from specstar.backends.s3.meta_current import CurrentCopy
from specstar.backends.s3.meta_database import Change, Copy, Form, Setup
from specstar.backends.s3.meta_load import Loader, Version
from specstar.backends.s3.meta_log import Commit
from specstar.backends.s3.meta_object import StoredObject
from specstar.backends.s3.meta_pending import PendingWrites
from specstar.backends.s3.meta_push import Landed, Pusher, deleted
from specstar.backends.s3.meta_rivals import Rivals
from specstar.backends.s3.options import S3Options
from specstar.backends.sqlite.database import Operation
from specstar.errors import (
    BackendUnavailable,
    LimitExceededError,
    OutcomeUnknownError,
    SpecstarError,
    twin_of,
)
from specstar.runtime import Batcher, Home

__all__ = ["MetaSync"]

logger: logging.Logger = logging.getLogger("specstar")

_MAX_CHANGES = 4096
_DRAIN_SECONDS = 60.0
_LARGE = 32 << 20


class _Group(NamedTuple):
    """Changes that one caller awaits together."""

    changes: tuple[Change, ...]
    size: int


class MetaSync:
    """The database of one model, shared by all stores of a connection that use it. All methods belong to the home loop.

    Reads see the current copy: a version of the object, and, without `auto_sync`, the pending writes on top of it. A group
    of writes is made on a copy of it, which takes its place once it is pushed: what was not acknowledged is never seen, and a
    refused push leaves everything as it was. `_state` guards the copy and the writes.
    """

    def __init__(
        self,
        home: Home,
        connection: S3Connection,
        stored: StoredObject,
        options: S3Options,
        model: str,
    ) -> None:
        self.name: str = stored.name
        self._home = home
        self._connection = connection
        self._stored = stored
        self._setup = Setup()
        self._settled = True
        self._options = options
        self._model = model
        self._loader = Loader(connection, stored, self._setup)
        # Without locking whole: a log must not outlive its base, which another writer may remove.
        self._form = Form(options.enable_locking, options.max_meta_bytes)
        self._pusher = Pusher(
            connection,
            stored,
            self._loader,
            locked=options.enable_locking,
            attempts=options.max_attempts,
            seconds=options.operation_timeout_seconds,
        )
        self._state = asyncio.Lock()
        self._current = CurrentCopy(connection, stored.name)
        self._pending = PendingWrites(connection, stored.name, model)
        self._warned = False
        self._rivals = Rivals(home)
        self._periodic: Any = None
        self._writes: Batcher[_Group, list[Any]] = Batcher(
            home,
            self._flush_writes,
            name=f"{self.name}: writes",
            max_items=_MAX_CHANGES,
            max_bytes=options.batch_bytes,
            max_in_flight=1,
            size_of=lambda group: group.size,
            writes=True,
            gathers=True,
        )
        self._reads: Batcher[Operation, Any] = Batcher(
            home, self._flush_reads, name=f"{self.name}: reads", max_in_flight=2
        )
        self._searches: Batcher[Operation, Any] = Batcher(
            home, self._flush_reads, name=f"{self.name}: searches", max_items=16, max_in_flight=1
        )
        self.read: Callable[[Operation], Coroutine[Any, Any, Any]] = self._reads.submit
        self.search: Callable[[Operation], Coroutine[Any, Any, Any]] = self._searches.submit

    def require(self, key: Hashable, setup: Operation) -> None:
        """Have the tables and indexes of a store made, before anything else is done; once for each `key`."""
        if key not in self._setup.operations:
            self._setup.operations[key] = setup
            self._settled = False

    async def write(self, changes: Sequence[Change], size: int) -> list[Any]:
        """Apply changes; one result or error each. With `auto_sync`, returns once they are in the bucket."""
        return await self._writes.submit(_Group(tuple(changes), size))

    async def sync(self) -> None:
        """Push local writes, or pull foreign ones if there are none.

        Raises `RevisionConflictError` if a foreign write is in the way of local ones: without `auto_reload_on_conflict`
        nothing was pushed and the local state is as it was; with it, all was pushed but the writes that conflict.
        """
        async with self._state:
            loaded = await self._ready()
            if self._pending:
                await self._push_pending()
            elif not loaded:
                await self._pull()
            self._pending.raise_dropped()

    async def discard(self) -> None:
        """Give up local writes that are not pushed, and load what is in the bucket."""
        async with self._state:
            self._pending.discard()
            # Loaded even if the object did not change: the local copy has other writes in it.
            self._current.give_up()
            await self._ready()

    # Writes.

    async def _flush_writes(self, groups: list[_Group]) -> list[list[Any]]:
        changes = [change for group in groups for change in group.changes]
        if self._options.auto_sync and self._options.enable_locking:
            await self._rivals.make_way()
        async with self._state:
            await self._ready()
            results = await (self._publish(changes) if self._options.auto_sync else self._apply(changes))
        ordered = iter(results)
        return [[next(ordered) for _ in group.changes] for group in groups]

    async def _apply(self, changes: list[Change]) -> list[Any]:
        """Change the local copy only; `sync` pushes later."""
        results = await self._current.use(lambda copy: copy.apply(changes, limit=self._form.limit))
        self._pending.add(changes, results)
        return results

    async def _publish(self, changes: list[Change]) -> list[Any]:
        """Make changes on a copy and push it; one result or error each."""
        current = self._current
        deadline = self._home.time() + self._options.operation_timeout_seconds
        attempt = 0
        while True:
            attempt += 1
            begun = self._home.time()
            try:
                prepared = await current.use(
                    partial(Copy.prepare, changes=changes, commit_id=secrets.token_hex(16), form=self._form)
                )
            except LimitExceededError as error:
                return await self._publish_halves(changes, error)
            if prepared.snapshot is None:
                current.retire(prepared.copy)
                # All were refused, but by what we know: is it still so?
                if attempt > 3 or not await self._pull():
                    return prepared.results
                continue
            try:
                outcome = await self._pusher.push(prepared.snapshot, replaces=current.etag, near=current.copy)
            except BaseException as error:
                current.retire(prepared.copy)
                # What is there now is to be found out before the next call.
                current.stale |= isinstance(error, OutcomeUnknownError) or not isinstance(error, Exception)
                raise
            if isinstance(outcome, Landed):
                if outcome.copy is not None:
                    current.retire(prepared.copy)
                    current.swap(outcome.copy, outcome.etag)
                else:
                    current.swap(prepared.copy, outcome.etag, prepared.delta)
                self._warn_if_large(prepared.snapshot.size)
                # One with a new base takes longer than what comes next.
                self._rivals.won(begun, usual=prepared.snapshot.base is None)
                return prepared.results
            current.retire(prepared.copy)
            self._rivals.lost()
            # Where nothing was before, there is nothing local to protect.
            if not self._options.auto_reload_on_conflict and current.etag is not None:
                current.retire(outcome.copy)
                current.stale = True
                logger.info("%s: %d writes refused, another process wrote first", self.name, len(changes))
                return [foreign_write(change.resource_id, self._model) for change in changes]
            current.swap(outcome.copy, outcome.etag)
            if self._home.time() >= deadline:
                raise BackendUnavailable(
                    f"{self.name}: other processes were faster {attempt} times in "
                    f"{self._options.operation_timeout_seconds:g} s; nothing was stored, retry later"
                )
            # At once: a pause between reading and pushing is time for others to be faster again.
            logger.info("%s: another process wrote first; replaying %d writes", self.name, len(changes))

    async def _publish_halves(self, changes: list[Change], error: LimitExceededError) -> list[Any]:
        """Too large together: find those that fit."""
        if len(changes) == 1:
            return [error]
        middle = len(changes) // 2
        results: list[Any] = []
        for half in changes[:middle], changes[middle:]:
            try:
                results += await self._publish(half)
            except SpecstarError as refused:
                # The other half may be in the bucket: it stays acknowledged.
                results += [twin_of(refused) for _ in half]
        return results

    async def _push_pending(self) -> None:
        """Push the local copy; with `auto_reload_on_conflict`, replay the local writes on what others pushed."""
        current, pending = self._current, self._pending
        deadline = self._home.time() + self._options.operation_timeout_seconds
        attempt = 0
        while pending:
            attempt += 1
            twin = await current.use(Copy.twin)
            commit: Commit | None = None
            try:
                snapshot = await self._connection.in_thread(twin.seal, secrets.token_hex(16), self._form)
                commit = snapshot.commit
                outcome = await self._pusher.push(snapshot, replaces=current.etag, near=None)
            except BaseException as error:
                current.retire(twin)
                if commit is not None and (isinstance(error, OutcomeUnknownError) or not isinstance(error, Exception)):
                    pending.doubtful(commit)
                raise
            if isinstance(outcome, Landed):
                pending.landed()
                current.swap(outcome.copy or twin, outcome.etag)
                if outcome.copy is not None:
                    current.retire(twin)
                self._warn_if_large(snapshot.size)
                return
            current.retire(twin)
            if not await self._replay(outcome.copy, outcome.etag):
                raise pending.conflict()
            if self._home.time() >= deadline:
                raise BackendUnavailable(
                    f"{self.name}: other processes were faster {attempt} times; local writes are kept"
                )

    async def _replay(self, copy: Copy, etag: str) -> bool:
        """Take a foreign version with the local writes on top. False, and it is closed, if they must not be put there."""
        allowed = self._options.auto_reload_on_conflict or self._current.etag is None
        taken = False
        try:
            taken = await self._pending.replay(copy, allowed=allowed)
        finally:
            if not taken:
                self._current.retire(copy)
        if taken:
            self._current.swap(copy, etag)
        return taken

    # Reads.

    async def _flush_reads(self, operations: list[Operation]) -> list[Any]:
        if self._options.check_etag_on_read or self._current.copy is None or self._current.stale:
            await self._refresh()
        if not self._settled:
            async with self._state:
                await self._ready()
        return await self._current.use(lambda copy: copy.read(operations))

    async def _refresh(self) -> None:
        """Notice a foreign write: one HEAD for all reads that wait, the object only if it changed."""
        current = self._current
        if current.copy is not None and not current.stale and current.knows(await self._stored.head()):
            return
        async with self._state:
            if not await self._ready():
                await self._pull()

    async def _ready(self) -> bool:
        """Load the database if that was not done, or if what we have is known to be old; True if it asked the server."""
        if self._current.copy is None:
            self._settled = True
            await self._load(await self._loader.load())
            self._start_periodic()
            return True
        if not self._settled:
            # Said before: a store that comes meanwhile wants it once more.
            self._settled = True
            try:
                await self._current.use(Copy.settle)
            except BaseException:
                self._settled = False
                raise
        if self._current.stale and not self._pending:
            await self._pull()
            return True
        return False

    async def _load(self, found: Version | None) -> None:
        if found is not None:
            self._current.swap(found.copy, found.etag)
        elif self._current.etag is not None:
            raise deleted(self.name)
        else:
            self._current.begin(await self._connection.in_thread(Copy.empty, self.name, self._setup))

    async def _pull(self) -> bool:
        """Take a foreign version if there is one; True if there was. Local writes are replayed on it, or kept apart from it."""
        try:
            found = await self._loader.load(known=self._current.etag, near=self._current.copy)
        except NotModified:
            self._current.stale = False
            return False
        if found is None:
            if self._current.etag is not None:
                raise deleted(self.name)
            self._current.stale = False
            return False
        if not self._pending:
            await self._load(found)
            return True
        if await self._replay(found.copy, found.etag):
            return True
        if self._current.diverged != found.etag:
            self._current.diverged = found.etag
            logger.warning(
                "%s: another process wrote; %d local writes are kept apart from it, sync() will refuse them",
                self.name,
                len(self._pending),
            )
        return False

    def _warn_if_large(self, size: int) -> None:
        if size > _LARGE and not self._warned:
            self._warned = True
            logger.warning(
                "%s has %d MiB, which each process holds in memory and sends from time to time; PostgreSQL suits this better",
                self.name,
                size >> 20,
            )

    # Life.

    def _start_periodic(self) -> None:
        if self._options.sync_interval > 0 and self._periodic is None:
            self._periodic = self._home.spawn(self._sync_for_ever)

    async def _sync_for_ever(self) -> None:
        failed = False
        while True:
            await asyncio.sleep(self._options.sync_interval)
            try:
                await self.sync()
                failed = False
            except SpecstarError as error:
                # Once, not with every tick of a long outage.
                log = logger.debug if failed else logger.warning
                log("%s: periodic sync failed: %s", self.name, error)
                failed = True

    async def aclose(self) -> None:
        """Let writes in flight finish, push local ones, close the database. Raises if local writes could not be pushed."""
        if self._periodic is not None:
            self._periodic.cancel()
            self._periodic = None
        await self._writes.drain(_DRAIN_SECONDS)
        async with self._state:
            if self._pending:
                await self._push_pending()
            await self._current.aclose()
            self._pending.raise_dropped()

    def abandon(self) -> None:
        """Forget the database; the loop is gone, or belongs to the parent process."""
        if self._pending:
            logger.error("%s: %d local writes were never pushed and are lost", self.name, len(self._pending))
        self._pending.discard()
        self._current.copy = None
