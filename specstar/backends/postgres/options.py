"""The options of the `postgres` backend."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta, Struct, structs

from specstar.backends.postgres.dsn import hide_password
from specstar.config.encoding import Encoding
from specstar.config.redaction import Redacted

__all__ = ["PostgresOptions"]


class PostgresOptions(Redacted, Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach a PostgreSQL server, and how to name what is kept there."""

    secrets: ClassVar[frozenset[str]] = frozenset({"dsn"})

    dsn: Annotated[
        str,
        Meta(
            description="PostgreSQL DSN, postgresql://user:password@host:5432/database. TLS by its query: "
            "?sslmode=verify-full&sslrootcert=/path/ca.crt. Reserved characters in user and password are percent-encoded."
        ),
    ]
    table_prefix: Annotated[str, Meta(description="Put before the name of every table.", max_length=200)] = ""
    encoding: Annotated[Encoding, Meta(description="The format of new payloads.")] = Encoding.json
    schema: Annotated[
        str,
        Meta(
            description="The PostgreSQL schema of the tables, created if it is missing. "
            "Empty: the first schema of the role's search_path.",
            max_length=63,
        ),
    ] = ""
    pool_min_size: Annotated[int, Meta(description="Connections that are kept open when idle.", ge=0, le=1000)] = 0
    pool_max_size: Annotated[int, Meta(description="Connections open at most, for each process.", ge=1, le=1000)] = 8
    connect_timeout_seconds: Annotated[
        float, Meta(description="The longest wait for a new connection, TLS and login included.", gt=0)
    ] = 5.0
    command_timeout_seconds: Annotated[
        float, Meta(description="The longest wait for the answer to one statement.", gt=0)
    ] = 30.0
    acquire_timeout_seconds: Annotated[
        float, Meta(description="The longest wait for a free connection of the pool.", gt=0)
    ] = 10.0
    batch_bytes: Annotated[
        int,
        Meta(
            description="Bytes at most of the writes that share one statement; an answer to several reads holds twice as "
            "many. A larger one travels alone.",
            ge=64 << 10,
            le=256 << 20,
        ),
    ] = 4 << 20
    pgbouncer: Annotated[
        bool,
        Meta(
            description="The DSN leads to PgBouncer in transaction mode: nothing is prepared or kept on a session. "
            "Costs four round trips a call instead of one."
        ),
    ] = False

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        shown = structs.asdict(self)
        shown["dsn"] = hide_password(self.dsn)
        return list(shown.items())
