"""Driver errors in the terms of specstar: what may be retried, what is for good, and what to do about it."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import asyncpg

from specstar.backends.tls import tls_reason
from specstar.errors import BackendError, BackendUnavailable, InvalidInputError, SchemaVersionError, SpecstarError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["is_bad_value", "is_lost", "is_misdirected", "is_race", "translate"]

# Error classes: https://www.postgresql.org/docs/current/errcodes-appendix.html
_RACES = frozenset({"40001", "40P01"})
_SHUTDOWNS = frozenset({"57P01", "57P02", "57P05", "25P03"})
_UNAVAILABLE = frozenset({"53300", "57014", "57P03", "55P03", "53400"}) | _SHUTDOWNS | _RACES
_BAD_VALUES = ("22", "54")


def _state(error: BaseException) -> str:
    return getattr(error, "sqlstate", None) or ""


def is_lost(error: BaseException) -> bool:
    """True if the connection is gone or silent, so that nobody knows how the statement ended."""
    if isinstance(error, (TimeoutError, OSError, asyncpg.InternalClientError)):
        return True
    if isinstance(error, asyncpg.PostgresError):
        return _state(error) in _SHUTDOWNS or _state(error).startswith("08")
    return type(error) is asyncpg.InterfaceError


def is_race(error: BaseException) -> bool:
    """True for deadlocks and serialization failures."""
    return _state(error) in _RACES


def is_misdirected(error: BaseException) -> bool:
    """True if the server takes no writes: after a failover, a new connection may lead to the one that does."""
    return _state(error) == "25006"


def is_bad_value(error: BaseException) -> bool:
    """True if a parameter was refused, by the driver or by the server."""
    if isinstance(error, asyncpg.PostgresError):
        return _state(error).startswith(_BAD_VALUES)
    return isinstance(error, (asyncpg.DataError, UnicodeError, OverflowError, ValueError, TypeError))


def translate(error: BaseException, *, doing: str, where: str, timeout: float | None = None) -> SpecstarError:
    """The error to raise from a driver's. `where` names the server without secrets, `timeout` is the limit that applied."""
    if isinstance(error, SpecstarError):
        return error
    if isinstance(error, TimeoutError):
        limit = f" within {timeout:g} s" if timeout is not None else " in time"
        return BackendUnavailable(f"{where} did not answer{limit} ({doing}); retry later", backend="postgres")
    if isinstance(error, ssl.SSLError):
        return BackendError(
            f"TLS to {where} failed: {tls_reason(error)}; check sslmode, sslrootcert, sslcert and sslkey in the dsn",
            backend="postgres",
        )
    if isinstance(error, ConnectionError) and "SSL upgrade" in str(error):
        return BackendError(
            f"{where} refused to begin TLS: what listens there is not PostgreSQL (check host and port), or sslmode demands TLS "
            "and the server has none",
            backend="postgres",
        )
    if isinstance(error, FileNotFoundError):
        return BackendUnavailable(
            f"cannot reach {where} ({doing}): {error.strerror}; is the server running, and do the files exist that the dsn "
            "names (socket folder, sslrootcert, sslcert, sslkey)?",
            backend="postgres",
        )
    if isinstance(error, OSError):
        return BackendUnavailable(
            f"cannot reach {where} ({doing}): {error.strerror or str(error) or type(error).__name__}; is the server running?",
            backend="postgres",
        )
    state = _state(error)
    if state == "08P01" and "startup parameter" in str(error):
        return BackendError(f"{where}: {_text(error)}; if it is PgBouncer, set pgbouncer to true", backend="postgres")
    if state in _ADVICE:
        advised: Callable[[str], SpecstarError] = _ADVICE[state]
        return advised(f"{where}: {_text(error)}")
    if state in _UNAVAILABLE or state.startswith("08") or is_lost(error):
        return BackendUnavailable(f"{where}: {_text(error)} ({doing}); retry later", backend="postgres")
    if is_bad_value(error):
        return InvalidInputError(f"{where} refused a value ({doing}): {_text(error)}")
    return BackendError(f"{where}: {_text(error)} ({doing})", backend="postgres")


def _text(error: BaseException) -> str:
    text = str(error).partition("\n")[0] or type(error).__name__
    return f"{text} [{_state(error)}]" if _state(error) else text


def _refused(advice: str) -> Callable[[str], SpecstarError]:
    return lambda text: BackendError(f"{text}; {advice}", backend="postgres")


def _foreign(advice: str) -> Callable[[str], SpecstarError]:
    return lambda text: SchemaVersionError(f"{text}; {advice}", backend="postgres")


_ADVICE: dict[str, Callable[[str], SpecstarError]] = {
    "28P01": _refused("check user and password of the dsn"),
    "28000": _refused("check user of the dsn, and what pg_hba.conf allows (TLS may be required: sslmode=require)"),
    "3D000": _refused("create it with CREATE DATABASE, or correct the dsn"),
    "42501": _refused(
        "GRANT the right to the role of the dsn, or let a role that has it create or migrate the tables first"
    ),
    "25006": _refused("it is a standby or set to read only: point the dsn at the primary"),
    "53100": _refused("free some space; nothing was written"),
    "53200": _refused("the server is out of memory"),
    "42P01": _refused("a table of specstar was dropped while in use: restore it, or restart to create it anew"),
    "42703": _foreign("the table is not specstar's: choose another table_prefix or schema"),
    "3F000": _refused("the role's search_path has no schema to create tables in: set the option schema"),
    "26000": _refused("prepared statements do not survive behind PgBouncer in transaction mode: set pgbouncer to true"),
    "42P05": _refused("prepared statements collide behind PgBouncer in transaction mode: set pgbouncer to true"),
}
