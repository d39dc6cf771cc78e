"""The tables of one model, and the statements that use them."""

from __future__ import annotations

from collections.abc import Sequence

from specstar.backends.sqlite.names import table_suffix
from specstar.backends.sqlite.rows import META_COLUMNS
from specstar.query import Fields, quote_identifier
from specstar.roles import ModelSpec

__all__ = ["CURRENT_ROW", "ModelTables"]

CURRENT_ROW = "current_row"
"""A column that tables of early versions lack: it is added to them."""
_REVISION_COLUMNS = "resource_id, revision_id, payload_id, info, payload"
_REVISION_PLACES = "(?, ?, ?, ?, ?)"


class ModelTables:
    """Names and SQL of one model: `meta_...` (one row a resource), `revisions_...` (with small payloads), `payloads_...`.

    Times are integers, microseconds since 1970; `indexed` is JSON text; `info` is the rest of `RevisionInfo` in msgpack.
    Revisions and payloads are rowid tables, since rows in a WITHOUT ROWID table spill to extra pages from a quarter of a
    page on.

    `current_row` says where the current revision most likely lies, its rowid, which spares a look into their index: in a
    large store a page from the disk. What is found there is compared, so it may be wrong (VACUUM moves rows) or missing.
    """

    suffix: str
    meta: str
    revisions: str
    payloads: str

    def __init__(self, model: ModelSpec) -> None:
        self.model = model
        self.suffix = suffix = table_suffix(model.name)
        self.meta_name: str = f"meta_{suffix}"
        self.meta = meta = quote_identifier(self.meta_name)
        self.revisions = revisions = quote_identifier(f"revisions_{suffix}")
        self.payloads = payloads = quote_identifier(f"payloads_{suffix}")

        self.create: tuple[str, str, str, str, str, str] = (
            f"""CREATE TABLE IF NOT EXISTS {meta} (
                resource_id TEXT NOT NULL PRIMARY KEY,
                current_revision_id TEXT NOT NULL,
                revision_count INTEGER NOT NULL,
                version INTEGER NOT NULL,
                created_time INTEGER NOT NULL,
                updated_time INTEGER NOT NULL,
                created_by TEXT NOT NULL,
                updated_by TEXT NOT NULL,
                is_deleted INTEGER NOT NULL,
                schema_version TEXT,
                indexed TEXT NOT NULL,
                {CURRENT_ROW} INTEGER
            ) WITHOUT ROWID""",
            f"""CREATE TABLE IF NOT EXISTS {revisions} (
                resource_id TEXT NOT NULL,
                revision_id TEXT NOT NULL,
                payload_id TEXT NOT NULL,
                info BLOB NOT NULL,
                payload BLOB
            )""",
            (
                f"CREATE UNIQUE INDEX IF NOT EXISTS {quote_identifier(f'revisions_{suffix}_by_id')} ON {revisions} "
                "(resource_id, revision_id)"
            ),
            # For garbage collection: which payloads outside this table are pointed to.
            (
                f"CREATE INDEX IF NOT EXISTS {quote_identifier(f'revisions_{suffix}_by_payload')} ON {revisions} (payload_id) "
                "WHERE payload IS NULL"
            ),
            f"""CREATE TABLE IF NOT EXISTS {payloads} (
                resource_id TEXT NOT NULL,
                payload_id TEXT NOT NULL,
                modified_time INTEGER NOT NULL,
                payload BLOB NOT NULL
            )""",
            (
                f"CREATE UNIQUE INDEX IF NOT EXISTS {quote_identifier(f'payloads_{suffix}_by_id')} ON {payloads} "
                "(resource_id, payload_id)"
            ),
        )

        self.fields: Fields = Fields(model.indexed_fields)
        self.columns = columns = ", ".join(META_COLUMNS)
        places = ", ".join("?" for _ in META_COLUMNS)
        changed = ", ".join(f"{column} = ?" for column in META_COLUMNS[1:])
        self.meta_columns = ", ".join(f"m.{column}" for column in META_COLUMNS)
        self.add_current_row: str = f"ALTER TABLE {meta} ADD COLUMN {CURRENT_ROW} INTEGER"
        # The pluses keep SQLite from taking the index there as well.
        self.join_current: str = f"""LEFT JOIN {revisions} AS v ON v.rowid = coalesce(
            (SELECT c.rowid FROM {revisions} AS c WHERE c.rowid = m.{CURRENT_ROW}
                AND +c.resource_id = m.resource_id AND +c.revision_id = m.current_revision_id),
            (SELECT c.rowid FROM {revisions} AS c
                WHERE c.resource_id = m.resource_id AND c.revision_id = m.current_revision_id))"""
        from_current = f"FROM {meta} AS m {self.join_current}"
        from_given = (
            f"FROM {meta} AS m LEFT JOIN {revisions} AS v ON v.resource_id = m.resource_id AND v.revision_id = ?"
        )

        # The revision is appended next.
        self._last_row = f"(SELECT ifnull(max(rowid), 0) FROM {revisions})"
        self._together: dict[int, tuple[str, str]] = {}
        self._rows: dict[int, str] = {}
        self._rows_name = quote_identifier(f"rows_{suffix}")
        row_columns = (*META_COLUMNS, "revision_id", "payload_id", "info", "payload", "expected_version", "parent_id")
        self.row_width: int = len(row_columns)
        self.prepare_rows: tuple[str, ...] = self._prepare_rows(row_columns)
        self.insert_meta: str = self._insert_metas(1)
        self.replace_meta: str = f"INSERT OR REPLACE INTO {meta} ({columns}) VALUES ({places})"
        self.update_meta: str = (
            f"UPDATE {meta} SET {changed}, {CURRENT_ROW} = CASE WHEN current_revision_id = ?1 THEN {CURRENT_ROW} "
            f"ELSE {self._last_row} + 1 END WHERE resource_id = ? AND version = ?"
        )
        self.delete_meta: str = f"DELETE FROM {meta} WHERE resource_id = ?"
        self.select_version: str = f"SELECT version, current_revision_id FROM {meta} WHERE resource_id = ?"
        # A revision written again without bytes (a draft made stable) keeps those it has, if they are the same payload.
        self.upsert_revision: str = f"""INSERT INTO {revisions} ({_REVISION_COLUMNS})
            VALUES {_REVISION_PLACES} ON CONFLICT (resource_id, revision_id) DO UPDATE SET
            payload = CASE WHEN excluded.payload IS NULL AND excluded.payload_id = payload_id
                THEN payload ELSE excluded.payload END,
            payload_id = excluded.payload_id, info = excluded.info"""
        self.insert_revision: str = f"INSERT INTO {revisions} ({_REVISION_COLUMNS}) VALUES {_REVISION_PLACES}"
        self.select_head: str = (
            f"SELECT current_revision_id, is_deleted, updated_time FROM {meta} WHERE resource_id = ?"
        )
        self.advance_meta: str = (
            f"UPDATE {meta} SET current_revision_id = ?, revision_count = revision_count + 1, version = version + 1, "
            f"updated_time = ?, updated_by = ?, schema_version = ?, indexed = ?, {CURRENT_ROW} = last_insert_rowid() "
            "WHERE resource_id = ?"
        )
        self.delete_revisions: str = f"DELETE FROM {revisions} WHERE resource_id = ?"

        self.select_meta: str = f"SELECT {columns} FROM {meta} WHERE resource_id = ?"
        self.select_current: str = f"SELECT {self.meta_columns}, v.info {from_current} WHERE m.resource_id = ?"
        self.select_given: str = f"SELECT {self.meta_columns}, v.info {from_given} WHERE m.resource_id = ?"
        self.select_current_payload: str = (
            f"SELECT {self.meta_columns}, v.info, v.payload_id, v.payload {from_current} WHERE m.resource_id = ?"
        )
        self.select_given_payload: str = (
            f"SELECT {self.meta_columns}, v.info, v.payload_id, v.payload {from_given} WHERE m.resource_id = ?"
        )
        self.select_revisions: str = (
            f"SELECT revision_id, info, payload_id, payload IS NULL FROM {revisions} "
            "WHERE resource_id = ? ORDER BY revision_id"
        )
        self.select_referenced: str = (
            f"SELECT DISTINCT payload_id FROM {revisions} WHERE payload IS NULL "
            "AND payload_id IN (SELECT value FROM json_each(?))"
        )
        self.select_pointer: str = f"SELECT 1 FROM {revisions} WHERE resource_id = ? AND payload_id = ? LIMIT 1"

        self.put_payload: str = (
            f"INSERT INTO {payloads} (resource_id, payload_id, modified_time, payload) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (resource_id, payload_id) DO NOTHING"
        )
        self.get_payload: str = f"SELECT payload FROM {payloads} WHERE resource_id = ? AND payload_id = ?"
        self.get_inline_payload: str = (
            f"SELECT payload FROM {revisions} WHERE resource_id = ? AND payload_id = ? AND payload IS NOT NULL LIMIT 1"
        )
        self.delete_payload: str = f"DELETE FROM {payloads} WHERE resource_id = ? AND payload_id = ?"
        self.delete_payloads: str = f"DELETE FROM {payloads} WHERE resource_id = ?"
        self.list_payloads: str = (
            f"SELECT rowid, resource_id, payload_id, length(payload), modified_time FROM {payloads} "
            "WHERE rowid > ? ORDER BY rowid LIMIT ?"
        )

    def _prepare_rows(self, row_columns: Sequence[str]) -> tuple[str, ...]:
        """For one connection: a view to insert into, which writes to both tables. A row whose condition does not hold undoes
        the whole statement.
        """
        meta, revisions, suffix, columns = self.meta, self.revisions, self.suffix, self.columns
        is_new = "NEW.expected_version IS NULL AND NEW.parent_id IS NULL"
        # SQLite writes the entries of a row anew in each index on a column that is set, changed or not: in a large store that is
        # pages far apart. So each change goes by the one of three statements that sets no more than it must; a row which one of
        # them has moved on meets the conditions of those after it no more. It then has its new revision, as no row had before.
        moved = f"""current_revision_id = NEW.current_revision_id,
                    revision_count = ifnull(NEW.revision_count, revision_count + 1),
                    version = ifnull(NEW.version, version + 1),
                    updated_time = NEW.updated_time,
                    updated_by = NEW.updated_by,
                    schema_version = NEW.schema_version,
                    {CURRENT_ROW} = CASE WHEN NEW.revision_id IS NOT NULL THEN last_insert_rowid()
                        WHEN current_revision_id = NEW.current_revision_id THEN {CURRENT_ROW} END"""
        expected = """resource_id = NEW.resource_id AND CASE WHEN NEW.parent_id IS NULL THEN version = NEW.expected_version
                    ELSE current_revision_id = NEW.parent_id AND NOT is_deleted AND updated_time <= NEW.updated_time END"""
        alike = "NEW.revision_id IS NOT NULL AND is_deleted = ifnull(NEW.is_deleted, is_deleted)"
        return (
            f"CREATE TEMP VIEW IF NOT EXISTS {self._rows_name} AS SELECT {', '.join(f'NULL AS {name}' for name in row_columns)}",
            f"""CREATE TEMP TRIGGER IF NOT EXISTS {quote_identifier(f"rows_{suffix}_new")}
            INSTEAD OF INSERT ON {self._rows_name} WHEN NEW.resource_id IS NOT NULL AND {is_new} BEGIN
                INSERT INTO {revisions} ({_REVISION_COLUMNS})
                    VALUES (NEW.resource_id, NEW.revision_id, NEW.payload_id, NEW.info, NEW.payload);
                INSERT INTO {meta} ({columns}, {CURRENT_ROW})
                    VALUES ({", ".join(f"NEW.{column}" for column in META_COLUMNS)}, last_insert_rowid());
            END""",
            f"""CREATE TEMP TRIGGER IF NOT EXISTS {quote_identifier(f"rows_{suffix}_changed")}
            INSTEAD OF INSERT ON {self._rows_name} WHEN NOT ({is_new}) BEGIN
                INSERT INTO {revisions} ({_REVISION_COLUMNS})
                    SELECT NEW.resource_id, NEW.revision_id, NEW.payload_id, NEW.info, NEW.payload
                    WHERE NEW.revision_id IS NOT NULL;
                UPDATE {meta} SET {moved}
                    WHERE {expected} AND {alike} AND indexed = NEW.indexed;
                UPDATE {meta} SET {moved}, indexed = NEW.indexed
                    WHERE {expected} AND {alike};
                UPDATE {meta} SET {moved}, indexed = NEW.indexed, is_deleted = NEW.is_deleted
                    WHERE {expected} AND NEW.is_deleted IS NOT NULL;
                SELECT RAISE(ABORT, 'the condition of a change does not hold') WHERE changes() = 0 AND NOT EXISTS (
                    SELECT 1 FROM {meta} WHERE resource_id = NEW.resource_id AND current_revision_id = NEW.revision_id);
            END""",
        )

    def from_matching(self, matching: str) -> str:
        """The FROM of a search: its rows, in their order, with their current revisions."""
        inner = matching.replace(self.columns, f"{self.columns}, {CURRENT_ROW}", 1)
        return f"FROM ({inner}) AS m {self.join_current}"

    def together(self, count: int) -> tuple[str, str]:
        """The statements for so many new resources: their meta rows, then their revisions in the same order."""
        known = self._together.get(count)
        if known is None:
            before, values, after = self.upsert_revision.partition(_REVISION_PLACES)
            known = self._insert_metas(count), f"{before}{', '.join([values] * count)}{after}"
            self._together[count] = known
        return known

    def write_rows(self, size: int) -> str:
        """The statement for `size` rows or fewer, the rest NULLs, after `prepare_rows`.

        A row is the columns of the meta row, those of its new revision, and its condition: the version that is there, or the
        current revision, or neither for a new resource. In a row with `parent_id` the columns that follow from the row that
        is there are NULL.
        """
        known = self._rows.get(size)
        if known is None:
            row = f"({','.join('?' * self.row_width)})"
            known = self._rows[size] = f"INSERT INTO temp.{self._rows_name} VALUES {','.join([row] * size)}"
        return known

    def _insert_metas(self, count: int) -> str:
        columns, places = ", ".join((*META_COLUMNS, CURRENT_ROW)), ", ".join("?" for _ in META_COLUMNS)
        rows = ", ".join(f"({places}, {self._last_row} + {number})" for number in range(1, count + 1))
        return f"INSERT INTO {self.meta} ({columns}) VALUES {rows} ON CONFLICT (resource_id) DO NOTHING"
