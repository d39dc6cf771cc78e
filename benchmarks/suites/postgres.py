"""Resources in PostgreSQL."""

from __future__ import annotations

from benchmarks.case import Case, Entry, Scale, Suite, Target

__all__ = ["postgres"]

_POOL = 8


def postgres(scale: Scale) -> Suite:
    """All contestants on one server."""
    options = {"dsn": "{POSTGRES_DSN}", "table_prefix": "ours_", "pool_max_size": _POOL}
    backend = {role: {"type": "postgres", "options": options} for role in ("meta", "resource")}
    old = {
        "meta": {"type": "postgres", "options": {"dsn": "{POSTGRES_DSN}", "table_prefix": "old_"}},
        "resource": {"type": "postgres", "options": {"dsn": "{POSTGRES_DSN}", "table_prefix": "old_"}},
        "blob": {"type": "memory"},
    }
    common = {"pool_size": _POOL, "search_rows": scale.search_rows}
    searched = f"indexed search over {scale.search_rows:,}, limit 20"
    one = ("specstar", "asyncpg", "SQLAlchemy", "specstar 0.12.3")
    many = ("specstar", "asyncpg", "SQLAlchemy")
    old_by_ten = Target(against="specstar 0.12.3", at_least=10)
    return Suite(
        name="postgres",
        servers=("postgres",),
        entries=(
            Entry(
                name="specstar",
                cls="resources:Resources",
                setting={"backend": backend, "distributions": ("asyncpg",), **common},
                ours=True,
            ),
            Entry(name="asyncpg", cls="postgres_raw:RawAsyncpg", setting=common),
            Entry(name="asyncpg, one statement", cls="postgres_raw:OneStatement", setting=common),
            Entry(name="SQLAlchemy", cls="postgres_sqlalchemy:SqlAlchemy", environment="rivals", setting=common),
            Entry(
                name="specstar 0.12.3",
                cls="old_specstar:OldSpecstar",
                environment="old",
                setting={
                    "backend": old,
                    "rows": scale.old_rows // 10,
                    "search_rows": scale.old_rows,
                    "distributions": ("psycopg2-binary",),
                },
            ),
        ),
        cases=(
            Case(
                operation="create",
                title="create",
                callers=64,
                entries=("specstar", "asyncpg", "asyncpg, one statement", "SQLAlchemy"),
                targets=(Target(against="asyncpg", at_least=5),),
            ),
            Case(
                operation="create",
                title="create",
                callers=1,
                entries=("specstar", "asyncpg", "asyncpg, one statement", "SQLAlchemy", "specstar 0.12.3"),
                targets=(Target(against="asyncpg", at_least=0.8), old_by_ten),
            ),
            Case(
                operation="get",
                title="get",
                callers=64,
                entries=many,
                targets=(Target(against="asyncpg", at_least=6),),
            ),
            Case(
                operation="get",
                title="get",
                callers=1,
                entries=one,
                targets=(Target(against="asyncpg", at_least=0.7), old_by_ten),
            ),
            Case(
                operation="update",
                title="update, conditional",
                callers=64,
                entries=many,
                targets=(Target(against="asyncpg", at_least=4),),
            ),
            Case(operation="update", title="update, conditional", callers=1, entries=one, targets=(old_by_ten,)),
            Case(
                operation="search",
                title=searched,
                callers=64,
                entries=("specstar", "asyncpg"),
                targets=(Target(against="asyncpg", at_least=0.8),),
            ),
            Case(
                operation="search",
                title=f"{searched} (specstar 0.12.3: {scale.old_rows:,})",
                callers=1,
                entries=("specstar", "asyncpg", "specstar 0.12.3"),
                targets=(Target(against="asyncpg", at_least=0.8), old_by_ten),
            ),
            Case(
                operation="flight",
                title="10,000 calls in flight",
                fresh=True,
                callers=10_000,
                entries=("specstar",),
                unit="MiB",
                better="lower",
                targets=(Target(at_most=100),),
            ),
        ),
        notes=(
            (
                "One private server with its default settings but for `shared_buffers` (a quarter of the memory), "
                "`synchronous_commit` on: every answer is a commit on disk. "
                f"Pools of {_POOL} connections for all but specstar 0.12.3, which has its own way."
            ),
            (
                "asyncpg: two inserts in one transaction a create, one `fetchrow` with a join a get, a conditional UPDATE and "
                "an INSERT in one transaction an update, typed columns with a fitting index for the search. Its cost at one "
                "caller is round trips, the reset query of its pool among them; 'one statement' has both inserts in one, which "
                "fewer programs take the trouble for."
            ),
            "specstar's indexed fields lie in one JSONB column; all decode the payload into a msgspec struct.",
        ),
    )
