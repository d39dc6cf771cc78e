"""Queries: what users build with `QB`, and how stores run it.

For the author of a store:

1. A table has a typed column for each of `META_FIELDS`, named like it, and the projection in a column `indexed`; all
   but `schema_version` are NOT NULL. SQLite: times INTEGER (`micros_of`, `time_of`), `is_deleted` INTEGER 0 or 1,
   `indexed` TEXT of JSON, ids and names TEXT. PostgreSQL 14 or later, in a database with UTF-8: `timestamptz`,
   `boolean`, JSONB, and `text COLLATE "C"`.
2. `Projector(model, indexed_fields)` makes the projection of each object; write it with `msgspec.json.encode`.
3. For each field, run `index_definitions(table, field, SQLITE or POSTGRES)`; also for `META_FIELDS["created_time"]` and
   such, where sorting by them should be fast. An index covers the rows that are not deleted.
4. On SQLite, register `regex_function` as `specstar_regex` with two arguments, deterministic.
5. `compiled = compile_query(query, fields, dialect)`, then run
   `SELECT ... WHERE {compiled.where} ORDER BY {compiled.order_by} {compiled.page}` with `compiled.params`: `?` in order
   on SQLite, `$1` and up on PostgreSQL (`first_param=` leaves room for your own, `alias=` qualifies columns in a join).
   `compile_count` gives the WHERE of a count. Both raise `QueryError` only. Keep one `Fields(indexed_fields)` a model.
6. Plans depend on the operands. On PostgreSQL set `plan_cache_mode = force_custom_plan`, since the plan that a prepared
   statement settles on after five runs guesses ranges at a third of the table; let autovacuum analyze. On SQLite run
   `PRAGMA optimize` now and then.
7. `cursor_of(query, row)` is the `after` of the next page; `run_query` does it all in memory.

What each operator means, and what a value becomes, stands in `builder`, `values`, `ordering` and `regex`.
"""

from __future__ import annotations

from specstar.query.builder import QB, FieldRef, QueryBuilder
from specstar.query.conditions import Compare, Condition, decode_condition
from specstar.query.cursor import cursor_of, make_cursor
from specstar.query.dialects import POSTGRES, SQLITE, Dialect, PostgresBatch, quote_identifier
from specstar.query.evaluate import EvaluatedRow, matches, run_query, sort_key
from specstar.query.fields import META_FIELDS, Fields, IndexedField, MetaField
from specstar.query.indexes import IndexDefinition, index_definitions
from specstar.query.limits import QueryLimits, query_limits, set_query_limits
from specstar.query.modelling import fields_of
from specstar.query.ordering import SortKey
from specstar.query.projection import Projector, project
from specstar.query.query import Query, build_query, decode_query, resolve_condition, resolve_query
from specstar.query.regex import regex_function
from specstar.query.sql import Compiled, compile_count, compile_query
from specstar.query.values import micros_of, time_of

__all__ = [
    "META_FIELDS",
    "POSTGRES",
    "QB",
    "SQLITE",
    "Compare",
    "Compiled",
    "Condition",
    "Dialect",
    "EvaluatedRow",
    "FieldRef",
    "Fields",
    "IndexDefinition",
    "IndexedField",
    "MetaField",
    "PostgresBatch",
    "Projector",
    "Query",
    "QueryBuilder",
    "QueryLimits",
    "SortKey",
    "build_query",
    "compile_count",
    "compile_query",
    "cursor_of",
    "decode_condition",
    "decode_query",
    "fields_of",
    "index_definitions",
    "make_cursor",
    "matches",
    "micros_of",
    "project",
    "query_limits",
    "quote_identifier",
    "regex_function",
    "resolve_condition",
    "resolve_query",
    "run_query",
    "set_query_limits",
    "sort_key",
    "time_of",
]
