"""What a group of writes changed, as a changeset of SQLite: recorded on one copy of a database, applied to others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import apsw

from specstar.backends.sqlite.database import Database
from specstar.backends.sqlite.faults import translate
from specstar.errors import BackendError

__all__ = ["Delta", "Recording", "apply_deltas"]


class Delta(NamedTuple):
    """A changeset, and how many rows it changes."""

    changes: bytes
    rows: int


class Recording:
    """Notes the rows that change in a database, from now to `end`."""

    def __init__(self, database: Database) -> None:
        self._session = apsw.Session(database.connection, "main")
        # Tables without a primary key as well, by their rowid.
        self._session.config(apsw.SQLITE_SESSION_OBJCONFIG_ROWID, 1)
        self._session.attach()

    def end(self) -> Delta:
        """What changed."""
        changes = self._session.changeset()
        self.close()
        return Delta(changes, sum(1 for _ in apsw.Changeset.iter(changes)))

    def close(self) -> None:
        """Stop; a second time does nothing."""
        self._session.close()


def apply_deltas(database: Database, deltas: Iterable[Delta]) -> None:
    """Make changes that were recorded on a database with this very content. Raises `BackendError` if it is another."""
    connection = database.connection
    for delta in deltas:
        before = connection.total_changes()
        try:
            apsw.Changeset.apply(delta.changes, connection)
        except apsw.Error as error:
            if isinstance(error, apsw.AbortError | apsw.CorruptError):
                raise _unfit(database) from error
            raise translate(error, database.name) from error
        # SQLite leaves out, without a word, what belongs to a table that is missing or has other columns. Rows that
        # exchange what is unique are removed and made again: they count twice.
        if connection.total_changes() - before < delta.rows:
            raise _unfit(database)


def _unfit(database: Database) -> BackendError:
    return BackendError(
        f"{database.name}: its changes do not fit the base that they were made on; restore both from a backup"
    )
