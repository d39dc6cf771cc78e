"""One connection of the pool: asyncpg's, without its reset query, and able to let go of its socket in a forked child."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import asyncpg

from specstar.backends.postgres.outcomes import ServerSession
from specstar.runtime.cleanup import clean_up

__all__ = ["Session", "in_transaction"]

_ROLLBACK_SECONDS = 5.0
_ROLLBACKS = 3


class Session(asyncpg.Connection):
    """A pooled connection. Nothing may leave state on it: transactions only, no SET, LISTEN or session lock."""

    server_session: ServerSession = ServerSession(None, None)
    """Which server process serves this connection."""
    interruptions: int = 0
    """How many statements on it were cancelled, or timed out."""

    def interrupted(self) -> None:
        """Count an interruption."""
        self.interruptions += 1

    def get_reset_query(self) -> str:
        """Nothing: asyncpg's reset is a round trip on every release (MagicStack/asyncpg#271, #780)."""
        return ""

    async def lift_limits(self) -> None:
        """Let statements take as long as they need, whatever is set for the role. Behind PgBouncer nothing is set: that
        would be for whoever is served by this server process next.
        """
        # By way of the catalog: not every version has all of them. PgBouncer makes the number of the process up.
        await self.execute(
            "SELECT set_config(name, '0', false) FROM pg_catalog.pg_settings "
            "WHERE name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout') "
            f"AND pg_backend_pid() = {self.get_server_pid()}"
        )

    async def try_lock(self, lock_class: int, key: int) -> bool:
        """Take an advisory lock for as long as this connection lives, which it spends in one idle transaction.

        That transaction must hold no snapshot, or an index build would wait for it. So it never waits for the lock, and
        takes it by a simple statement: the portal of a prepared one would keep its snapshot.
        """
        take = f"IF NOT pg_try_advisory_xact_lock({lock_class}, {key}) THEN RAISE lock_not_available; END IF"
        await self.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        await self.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        try:
            await self.execute(f"DO $$ BEGIN {take}; END $$")
        except asyncpg.LockNotAvailableError:
            return False
        return True

    def let_go(self, null: int) -> None:
        """Close the socket without a goodbye and without the event loop, which may be a parent's or closed.

        The descriptor is pointed at `null` (open /dev/null) rather than closed: a late destructor then closes that, and not
        a stranger's file that got the same number.
        """
        private: Any = self
        transport = private._transport
        socket = transport.get_extra_info("socket") if transport is not None else None
        private._aborted = True
        if socket is not None and socket.fileno() >= 0:
            os.dup2(null, socket.fileno(), inheritable=False)


@asynccontextmanager
async def in_transaction(session: Session) -> AsyncIterator[None]:
    """A transaction for the length of a block, rolled back even where each wait of its caller is cancelled anew.

    asyncpg's own block then leaves that to whoever takes the connection back, who logs it as an error.
    """
    transaction = session.transaction(isolation="read_committed")
    await transaction.__aenter__()
    try:
        yield
    except BaseException as error:
        # What keeps it from being rolled back has broken the connection.
        with suppress(Exception):
            await clean_up(partial(_abort, session, transaction, error), seconds=_ROLLBACK_SECONDS)
        raise
    try:
        await transaction.__aexit__(None, None, None)
    except BaseException:
        with suppress(Exception):
            await clean_up(partial(_roll_back, session), seconds=_ROLLBACK_SECONDS)
        raise


async def _abort(session: Session, transaction: Any, error: BaseException) -> None:
    try:
        await transaction.__aexit__(type(error), error, None)
    except asyncpg.QueryCanceledError:
        await _roll_back(session)


async def _roll_back(session: Session) -> None:
    """End what a cancelled COMMIT or ROLLBACK left open: the server may hear of a cancellation a statement late."""
    for _ in range(_ROLLBACKS):
        with suppress(asyncpg.QueryCanceledError):
            # Comes behind the statement that is being cancelled, so that it is known what is open.
            await session.execute("")
            if session.is_in_transaction():
                await session.execute("ROLLBACK")
            return
