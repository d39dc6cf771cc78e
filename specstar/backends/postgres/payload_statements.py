"""The SQL of one model's payload table, that of the resource role alone. Values are always parameters."""

from __future__ import annotations

from dataclasses import dataclass

from specstar.backends.postgres.names import TableNames

__all__ = ["PayloadSql", "payload_sql"]


@dataclass(frozen=True, slots=True)
class PayloadSql:
    """Statements over the payload table of the resource role alone."""

    put: str
    get: str
    get_one: str
    delete: str
    page: str


def payload_sql(names: TableNames) -> PayloadSql:
    """The statements for the tables of these names."""
    table = names.payload
    keys = "FROM unnest($1::text[], $2::text[]) AS k(resource_id, payload_id)"
    return PayloadSql(
        put=(
            f"INSERT INTO {table} (resource_id, payload_id, payload) "
            "SELECT * FROM unnest($1::text[], $2::text[], $3::bytea[]) ON CONFLICT DO NOTHING"
        ),
        get=(
            "SELECT p.resource_id, p.payload_id, CASE WHEN octet_length(p.payload) <= $3 THEN p.payload END "
            f"{keys} JOIN {table} p USING (resource_id, payload_id)"
        ),
        get_one=f"SELECT p.payload FROM {table} p WHERE p.resource_id = $1 AND p.payload_id = $2",
        delete=f"DELETE FROM {table} p USING unnest($1::text[], $2::text[]) AS k(resource_id, payload_id) "
        "WHERE p.resource_id = k.resource_id AND p.payload_id = k.payload_id",
        page=(
            f"SELECT p.resource_id, p.payload_id, octet_length(p.payload), p.created_time FROM {table} p "
            "WHERE (p.resource_id, p.payload_id) > ($1, $2) ORDER BY p.resource_id, p.payload_id LIMIT $3"
        ),
    )
