"""A young table is analyzed as it grows: plans made for a few rows are kept until then, and read all of it for each batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from specstar.errors import SpecstarError

if TYPE_CHECKING:
    from specstar.backends.postgres.connection import PostgresConnection
    from specstar.runtime import Home

__all__ = ["Growth"]

logger: logging.Logger = logging.getLogger("specstar")

# Autovacuum looks once a minute; a thousand rows a second are many by then.
_FIRST_ROWS = 256
_FACTOR = 8
# By the catalog, -1 for a table that nobody has looked at.
_KNOWN_ROWS = "SELECT reltuples::bigint FROM pg_catalog.pg_class WHERE oid = to_regclass($1)"


class Growth:
    """Counts the rows that this process adds to some tables; each time they are eight times as many, those of which the
    server knows much fewer are analyzed beside the calls. That ends the plans of every connection of every process.
    """

    def __init__(self, home: Home, tables: Sequence[str]) -> None:
        self._home = home
        self._tables = tables
        self._rows = 0
        self._next = _FIRST_ROWS
        self._looks = False

    def add(self, rows: int, connection: PostgresConnection) -> None:
        """So many rows more were written. On the home loop; waits for nothing."""
        self._rows += rows
        if self._rows >= self._next and not self._looks and not self._home.closing:
            self._looks = True
            self._home.spawn(self._look, connection)

    async def _look(self, connection: PostgresConnection) -> None:
        try:
            # Other callers may have added more while the last look was under way.
            while self._next <= self._rows:
                self._next *= _FACTOR
            for table in self._tables:
                known = await connection.fetch_alone(_KNOWN_ROWS, table, doing="looking at the size of a table")
                if known and known[0][0] * _FACTOR < self._rows * 2:
                    # Never behind a VACUUM or an index that is being built; without the right to it this does nothing.
                    await connection.fetch_alone(f"ANALYZE (SKIP_LOCKED) {table}", doing="analyzing")
        except SpecstarError as error:
            logger.info("postgres: %s could not be analyzed: %s", ", ".join(self._tables), error)
        finally:
            self._looks = False
