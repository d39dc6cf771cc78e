"""The `postgres` backend: meta and resource on PostgreSQL. Importing it loads no driver."""

from __future__ import annotations

from specstar.backends.postgres.options import PostgresOptions
from specstar.backends.postgres.provider import PostgresProvider

__all__ = ["PostgresOptions", "PostgresProvider"]
