"""The tables of one model, and the statements that use them."""

from __future__ import annotations

from specstar.backends.sqlite.names import quoted, table_suffix
from specstar.backends.sqlite.rows import META_COLUMNS
from specstar.query import Fields
from specstar.roles import ModelSpec

__all__ = ["ModelTables"]


class ModelTables:
    """Names and SQL of one model: `meta_...` (one row a resource), `revisions_...` (with small payloads), `payloads_...`.

    Times are integers, microseconds since 1970; `indexed` is JSON text; `info` is the rest of `RevisionInfo` in msgpack.
    Revisions and payloads are rowid tables, since rows in a WITHOUT ROWID table spill to extra pages from a quarter of a
    page on.
    """

    def __init__(self, model: ModelSpec) -> None:
        self.model = model
        self.suffix = suffix = table_suffix(model.name)
        self.meta_name = f"meta_{suffix}"
        self.meta = meta = quoted(self.meta_name)
        self.revisions = revisions = quoted(f"revisions_{suffix}")
        self.payloads = payloads = quoted(f"payloads_{suffix}")

        self.create = (
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
                indexed TEXT NOT NULL
            ) WITHOUT ROWID""",
            f"""CREATE TABLE IF NOT EXISTS {revisions} (
                resource_id TEXT NOT NULL,
                revision_id TEXT NOT NULL,
                payload_id TEXT NOT NULL,
                info BLOB NOT NULL,
                payload BLOB
            )""",
            (
                f"CREATE UNIQUE INDEX IF NOT EXISTS {quoted(f'revisions_{suffix}_by_id')} ON {revisions} "
                "(resource_id, revision_id)"
            ),
            # For garbage collection: which payloads outside this table are pointed to.
            (
                f"CREATE INDEX IF NOT EXISTS {quoted(f'revisions_{suffix}_by_payload')} ON {revisions} (payload_id) "
                "WHERE payload IS NULL"
            ),
            f"""CREATE TABLE IF NOT EXISTS {payloads} (
                resource_id TEXT NOT NULL,
                payload_id TEXT NOT NULL,
                modified_time INTEGER NOT NULL,
                payload BLOB NOT NULL
            )""",
            f"CREATE UNIQUE INDEX IF NOT EXISTS {quoted(f'payloads_{suffix}_by_id')} ON {payloads} (resource_id, payload_id)",
        )

        self.fields = Fields(model.indexed_fields)
        self.columns = columns = ", ".join(META_COLUMNS)
        places = ", ".join("?" for _ in META_COLUMNS)
        changed = ", ".join(f"{column} = ?" for column in META_COLUMNS[1:])
        self.meta_columns = ", ".join(f"m.{column}" for column in META_COLUMNS)
        from_current = (
            f"FROM {meta} AS m LEFT JOIN {revisions} AS v "
            "ON v.resource_id = m.resource_id AND v.revision_id = m.current_revision_id"
        )
        from_given = (
            f"FROM {meta} AS m LEFT JOIN {revisions} AS v ON v.resource_id = m.resource_id AND v.revision_id = ?"
        )

        self.insert_meta = f"INSERT INTO {meta} ({columns}) VALUES ({places}) ON CONFLICT (resource_id) DO NOTHING"
        self.replace_meta = f"INSERT OR REPLACE INTO {meta} ({columns}) VALUES ({places})"
        self.update_meta = f"UPDATE {meta} SET {changed} WHERE resource_id = ? AND version = ?"
        self.delete_meta = f"DELETE FROM {meta} WHERE resource_id = ?"
        self.select_version = f"SELECT version, current_revision_id FROM {meta} WHERE resource_id = ?"
        # A revision written again without bytes (a draft made stable) keeps those it has, if they are the same payload.
        self.upsert_revision = f"""INSERT INTO {revisions} (resource_id, revision_id, payload_id, info, payload)
            VALUES (?, ?, ?, ?, ?) ON CONFLICT (resource_id, revision_id) DO UPDATE SET
            payload = CASE WHEN excluded.payload IS NULL AND excluded.payload_id = payload_id
                THEN payload ELSE excluded.payload END,
            payload_id = excluded.payload_id, info = excluded.info"""
        self.delete_revisions = f"DELETE FROM {revisions} WHERE resource_id = ?"

        self._many: dict[tuple[str, int], str] = {}

        self.select_meta = f"SELECT {columns} FROM {meta} WHERE resource_id = ?"
        self.select_current = f"SELECT {self.meta_columns}, v.info {from_current} WHERE m.resource_id = ?"
        self.select_given = f"SELECT {self.meta_columns}, v.info {from_given} WHERE m.resource_id = ?"
        self.select_current_payload = (
            f"SELECT {self.meta_columns}, v.info, v.payload_id, v.payload {from_current} WHERE m.resource_id = ?"
        )
        self.select_given_payload = (
            f"SELECT {self.meta_columns}, v.info, v.payload_id, v.payload {from_given} WHERE m.resource_id = ?"
        )
        self.select_revisions = (
            f"SELECT revision_id, info, payload IS NULL FROM {revisions} WHERE resource_id = ? ORDER BY revision_id"
        )
        self.select_referenced = (
            f"SELECT DISTINCT payload_id FROM {revisions} WHERE payload IS NULL "
            "AND payload_id IN (SELECT value FROM json_each(?))"
        )
        self.select_pointer = f"SELECT 1 FROM {revisions} WHERE resource_id = ? AND payload_id = ? LIMIT 1"

        self.put_payload = (
            f"INSERT INTO {payloads} (resource_id, payload_id, modified_time, payload) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (resource_id, payload_id) DO NOTHING"
        )
        self.get_payload = f"SELECT payload FROM {payloads} WHERE resource_id = ? AND payload_id = ?"
        self.get_inline_payload = (
            f"SELECT payload FROM {revisions} WHERE resource_id = ? AND payload_id = ? AND payload IS NOT NULL LIMIT 1"
        )
        self.delete_payload = f"DELETE FROM {payloads} WHERE resource_id = ? AND payload_id = ?"
        self.delete_payloads = f"DELETE FROM {payloads} WHERE resource_id = ?"
        self.list_payloads = (
            f"SELECT rowid, resource_id, payload_id, length(payload), modified_time FROM {payloads} "
            "WHERE rowid > ? ORDER BY rowid LIMIT ?"
        )

    def from_matching(self, matching: str) -> str:
        """The FROM of a search: its rows, in their order, with their current revisions."""
        return (
            f"FROM ({matching}) AS m LEFT JOIN {self.revisions} AS v "
            "ON v.resource_id = m.resource_id AND v.revision_id = m.current_revision_id"
        )

    def many(self, insert: str, count: int) -> str:
        """The same INSERT for so many rows."""
        known = self._many.get((insert, count))
        if known is None:
            before, _, rest = insert.partition("VALUES (")
            places, _, after = rest.partition(")")
            known = f"{before}VALUES {', '.join([f'({places})'] * count)}{after}"
            self._many[insert, count] = known
        return known
