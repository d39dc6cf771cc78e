"""Driver errors in the terms of specstar."""

from __future__ import annotations

import ssl

import asyncpg
import pytest

from specstar.backends.postgres.faults import is_bad_value, is_lost, is_race, translate
from specstar.errors import (
    BackendError,
    BackendUnavailable,
    InvalidInputError,
    SchemaVersionError,
    SpecstarError,
    UsageError,
)


def shown(error: BaseException) -> SpecstarError:
    return translate(error, doing="writing", where="PostgreSQL at db/app", timeout=3)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (TimeoutError(), BackendUnavailable, "within 3 s"),
        (ConnectionRefusedError(111, "Connection refused"), BackendUnavailable, "is the server running"),
        (FileNotFoundError(2, "No such file"), BackendUnavailable, "sslrootcert"),
        (ConnectionError("the server rejected SSL upgrade"), BackendError, "is not PostgreSQL"),
        (ssl.SSLError(1, "bad"), BackendError, "sslmode"),
        (asyncpg.TooManyConnectionsError("too many"), BackendUnavailable, "retry later"),
        (asyncpg.CannotConnectNowError("starting up"), BackendUnavailable, "retry later"),
        (asyncpg.AdminShutdownError("terminating"), BackendUnavailable, "retry later"),
        (asyncpg.ConnectionDoesNotExistError("closed"), BackendUnavailable, "retry later"),
        (asyncpg.QueryCanceledError("statement timeout"), BackendUnavailable, "retry later"),
        (asyncpg.InterfaceError("pool is closing"), BackendUnavailable, "retry later"),
        (asyncpg.InvalidPasswordError("no"), BackendError, "user and password"),
        (asyncpg.InvalidAuthorizationSpecificationError("no"), BackendError, "pg_hba"),
        (asyncpg.InvalidCatalogNameError("no db"), BackendError, "CREATE DATABASE"),
        (asyncpg.InsufficientPrivilegeError("denied"), BackendError, "GRANT"),
        (asyncpg.ReadOnlySQLTransactionError("read only"), BackendError, "primary"),
        (asyncpg.DiskFullError("full"), BackendError, "free some space"),
        (asyncpg.UndefinedTableError("gone"), BackendError, "dropped"),
        (asyncpg.UndefinedColumnError("other"), SchemaVersionError, "table_prefix"),
        (asyncpg.InvalidSQLStatementNameError("no"), BackendError, "pgbouncer to true"),
        (asyncpg.DuplicatePreparedStatementError("no"), BackendError, "pgbouncer to true"),
        (asyncpg.ProtocolViolationError("unsupported startup parameter: jit"), BackendError, "pgbouncer to true"),
        (asyncpg.CharacterNotInRepertoireError("0x00"), InvalidInputError, "0x00"),
        (asyncpg.DataError("invalid input for query argument $1"), InvalidInputError, "refused a value"),
        (asyncpg.ProgramLimitExceededError("index row size"), InvalidInputError, "index row size"),
        (asyncpg.DivisionByZeroError("1/0"), InvalidInputError, "1/0"),
        (asyncpg.InternalServerError("bug"), BackendError, "bug"),
    ],
)
def test_translation(error: BaseException, kind: type[SpecstarError], says: str) -> None:
    translated = shown(error)
    assert type(translated) is kind
    assert says in str(translated)


def test_an_error_of_specstar_stays_itself() -> None:
    error = UsageError("x")
    assert shown(error) is error


def test_what_a_write_does_next() -> None:
    lost = [TimeoutError(), OSError(), asyncpg.ConnectionDoesNotExistError(""), asyncpg.InterfaceError("closed")]
    lost += [asyncpg.AdminShutdownError(""), asyncpg.CrashShutdownError(""), asyncpg.ProtocolError("")]
    assert all(is_lost(error) for error in lost)
    assert not any(is_lost(error) for error in (asyncpg.DataError(""), asyncpg.UniqueViolationError(""), ValueError()))
    assert is_race(asyncpg.DeadlockDetectedError(""))
    assert is_race(asyncpg.SerializationError(""))
    assert not is_race(asyncpg.UniqueViolationError(""))
    assert is_bad_value(UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"))
    assert not is_bad_value(asyncpg.DiskFullError(""))
