"""The provider of the `postgres` backend type."""

from __future__ import annotations

import builtins
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import Struct

from specstar.backends.postgres.dsn import dsn_problem
from specstar.backends.postgres.options import PostgresOptions
from specstar.backends.provider import BackendContext, BackendProvider, Role
from specstar.errors import MissingDependencyError

if TYPE_CHECKING:
    from specstar.backends.postgres.connection import PostgresConnection
    from specstar.config import BackendDefaults
    from specstar.roles import MetaStore, ModelSpec, ResourceStore, Storage

__all__ = ["PostgresProvider"]

_LONGEST_NAME = 63


class PostgresProvider(BackendProvider[PostgresOptions, "PostgresConnection"]):
    """Meta and resource on PostgreSQL, through asyncpg; both in one transaction where they share the connection."""

    type: ClassVar[str] = "postgres"
    roles: ClassVar[frozenset[Role]] = frozenset({"meta", "resource"})
    options_type: ClassVar[builtins.type[Struct]] = PostgresOptions
    aliases: ClassVar[dict[str, str]] = {"connection_string": "dsn"}
    native: ClassVar[bool] = False
    extra: ClassVar[str | None] = "postgres"

    def apply_defaults(self, options: dict[str, Any], defaults: BackendDefaults) -> dict[str, Any]:
        return {"encoding": defaults.encoding, "table_prefix": defaults.table_prefix, **options}

    def validate(self, options: PostgresOptions, role: Role) -> list[tuple[str, str]]:
        problems: list[tuple[str, str]] = []
        if (problem := dsn_problem(options.dsn)) is not None:
            problems.append(("dsn", problem))
        problems += [(name, "holds a NUL") for name in ("table_prefix", "schema") if "\0" in getattr(options, name)]
        if len(options.schema.encode("utf-8", "surrogatepass")) > _LONGEST_NAME:
            problems.append(("schema", f"has more than {_LONGEST_NAME} bytes, at which PostgreSQL cuts names"))
        if options.pool_min_size > options.pool_max_size:
            problems.append(("pool_min_size", f"is above pool_max_size ({options.pool_max_size})"))
        return problems

    def connection_key(self, options: PostgresOptions) -> Hashable:
        return (
            options.dsn,
            options.pool_min_size,
            options.pool_max_size,
            options.connect_timeout_seconds,
            options.command_timeout_seconds,
            options.acquire_timeout_seconds,
            options.pgbouncer,
        )

    def connect(self, options: PostgresOptions) -> PostgresConnection:
        try:
            from specstar.backends.postgres.connection import PostgresConnection
        except ModuleNotFoundError as error:
            if error.name != "asyncpg":
                raise
            raise MissingDependencyError("asyncpg", extra="postgres") from error
        return PostgresConnection(options)

    def meta_store(self, context: BackendContext[PostgresOptions, PostgresConnection], model: ModelSpec) -> MetaStore:
        from specstar.backends.postgres.meta_store import PostgresMetaStore

        return PostgresMetaStore(context, model)

    def resource_store(
        self, context: BackendContext[PostgresOptions, PostgresConnection], model: ModelSpec
    ) -> ResourceStore:
        from specstar.backends.postgres.resource_store import PostgresResourceStore

        return PostgresResourceStore(context, model)

    def combined_storage(
        self,
        meta: BackendContext[PostgresOptions, PostgresConnection],
        resource: BackendContext[PostgresOptions, PostgresConnection],
        model: ModelSpec,
    ) -> Storage | None:
        if meta.connection is not resource.connection:
            return None
        if (meta.options.table_prefix, meta.options.schema) != (resource.options.table_prefix, resource.options.schema):
            return None
        from specstar.backends.postgres.storage import PostgresStorage

        return PostgresStorage(meta, model)
