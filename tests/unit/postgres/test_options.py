"""Options: what is required, what is refused, and that no password shows."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from specstar.backends.postgres import PostgresOptions, PostgresProvider
from specstar.backends.postgres.dsn import dsn_problem, hide_password, server_name
from specstar.config import BackendDefaults
from specstar.config.encoding import Encoding

DSN = "postgresql://ann:s3cret@db:5432/app"
provider = PostgresProvider()


def test_defaults() -> None:
    options = PostgresOptions(dsn=DSN)
    assert (options.table_prefix, options.encoding, options.schema) == ("", Encoding.json, "")
    assert (options.pool_min_size, options.pool_max_size, options.pgbouncer) == (0, 8, False)
    assert (options.connect_timeout_seconds, options.acquire_timeout_seconds, options.command_timeout_seconds) == (
        5,
        10,
        30,
    )
    assert provider.aliases == {"connection_string": "dsn"}
    assert provider.roles == {"meta", "resource"}


def test_shared_defaults_fill_what_is_not_given() -> None:
    defaults = BackendDefaults(table_prefix="app_", encoding=Encoding.msgpack)
    filled = provider.apply_defaults({"dsn": DSN, "table_prefix": "own_"}, defaults)
    assert (filled["table_prefix"], filled["encoding"]) == ("own_", Encoding.msgpack)
    assert provider.apply_defaults({"dsn": DSN}, defaults)["table_prefix"] == "app_"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pool_max_size", 0),
        ("pool_min_size", -1),
        ("connect_timeout_seconds", 0),
        ("command_timeout_seconds", -1),
        ("acquire_timeout_seconds", "ten"),
        ("encoding", "xml"),
        ("pgbouncer", "yes"),
        ("dsn_", "typo"),
    ],
)
def test_wrong_types_and_names_are_refused(field: str, value: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"dsn": DSN, field: value}, PostgresOptions)


@pytest.mark.parametrize("port", ["99999", "0", "abc", "-1", "65536", "٣", "1" * 30])
def test_a_port_that_is_none_is_refused_without_showing_it(port: str) -> None:
    for host in ("db", "[::1]", "one:5432,two", "ann:s3cret@db"):
        problem = dsn_problem(f"postgresql://{host}:{port}/app")
        assert problem is not None
        assert "port that is no number from 1 to 65535" in problem
        assert "s3cret" not in problem


def test_the_dsn_is_required() -> None:
    with pytest.raises(msgspec.ValidationError, match="dsn"):
        msgspec.convert({}, PostgresOptions)
    assert provider.validate(PostgresOptions(dsn=" "), "meta")[0][0] == "dsn"


@pytest.mark.parametrize(
    "dsn",
    [
        DSN,
        "postgres://db/app",
        "postgresql://db",
        "postgresql://ann:s%23%2F%40cret@db:5432/app?sslmode=verify-full",
        "postgresql://ann:s3cret@one:5432,two:5433/app",
        "postgresql:///app?host=/run/postgresql",
        "postgresql://db/app?user=ann@home",
        "postgresql://ann:pa:ss@[::1]:65535,[fe80::1],three:1,four:/app",
    ],
)
def test_a_good_dsn_has_no_problem(dsn: str) -> None:
    assert dsn_problem(dsn) is None


@pytest.mark.parametrize(
    ("dsn", "says"),
    [
        ("", "required"),
        ("mysql://ann:s3cret@db/app", "postgresql://"),
        ("postgresql+asyncpg://ann:s3cret@db/app", "not with"),
        ("host=db password=s3cret", "must begin"),
        ("postgresql://ann:s3#cret@db/app", "%23"),
        ("postgresql://ann:s3/cret@db/app", "%2F"),
        ("postgresql://ann:s3?cret@db/app", "%2F"),
        ("postgresql://ann:12/cret?y=1@db:5432/app", "%2F"),
        ("postgresql://ann:12?cret=1@db", "%3F"),
        ("postgresql://ann:s3 cret@db/app", "space"),
        ("postgresql://ann:s3cret@db/app\n", "line end"),
    ],
)
def test_a_bad_dsn_is_explained_without_its_password(dsn: str, says: str) -> None:
    ((name, problem),) = provider.validate(PostgresOptions(dsn=dsn), "meta")
    assert name == "dsn"
    assert says in problem
    assert "cret" not in problem


@pytest.mark.parametrize(
    ("dsn", "named"),
    [
        (DSN, "PostgreSQL at db:5432/app"),
        ("postgresql://db", "PostgreSQL at db"),
        ("postgresql:///app?host=/run", "PostgreSQL at the local socket/app"),
        ("postgresql://ann:12/cret?user=1@db:5432/app", "PostgreSQL at the host of the dsn"),
    ],
)
def test_a_server_is_named_without_what_may_be_a_password(dsn: str, named: str) -> None:
    assert server_name(dsn) == named


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        (DSN, "postgresql://ann:***@db:5432/app"),
        ("postgresql://ann:s3@cret@db/app", "postgresql://ann:***@db/app"),
        (
            "postgresql://ann@db/app?password=s3cret&sslmode=require",
            "postgresql://ann@db/app?password=***&sslmode=require",
        ),
        ("postgresql://ann:s3cret@db/app?sslpassword=s3cret", "postgresql://ann:***@db/app?sslpassword=***"),
        ("host=db password=s3cret", "***"),
        ("", ""),
    ],
)
def test_a_dsn_shows_without_its_password(dsn: str, shown: str) -> None:
    assert hide_password(dsn) == shown
    assert "s3cret" not in repr(PostgresOptions(dsn=dsn))
    assert "dsn" in PostgresOptions.secrets


def test_pools_are_shared_by_equal_connection_options_only() -> None:
    one, two = (
        PostgresOptions(dsn=DSN),
        PostgresOptions(dsn=DSN, table_prefix="x", encoding=Encoding.msgpack, schema="s"),
    )
    assert provider.connection_key(one) == provider.connection_key(two)
    assert provider.connection_key(one) != provider.connection_key(PostgresOptions(dsn=DSN, pool_max_size=9))
    assert provider.connection_key(one) != provider.connection_key(PostgresOptions(dsn=DSN, pgbouncer=True))


def test_pool_sizes_must_fit_and_names_hold_no_nul() -> None:
    options = PostgresOptions(dsn=DSN, pool_min_size=9, table_prefix="\0", schema="\0")
    assert [name for name, _ in provider.validate(options, "meta")] == ["table_prefix", "schema", "pool_min_size"]


def test_configuring_imports_no_driver() -> None:
    code = (
        "import sys; from specstar.backends.postgres import PostgresOptions, PostgresProvider; "
        "PostgresProvider().connection_key(PostgresOptions(dsn='postgresql://db')); "
        "print(sorted(name for name in sys.modules if name.split('.')[0] in {'asyncpg', 'asyncio'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "asyncpg" not in done.stdout


def test_a_missing_driver_names_its_extra() -> None:
    code = (
        "import sys; sys.modules['asyncpg'] = None\n"
        "from specstar.backends.postgres import PostgresOptions, PostgresProvider\n"
        "from specstar.errors import MissingDependencyError\n"
        "try:\n    PostgresProvider().connect(PostgresOptions(dsn='postgresql://db'))\n"
        "except MissingDependencyError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'specstar[postgres]'" in done.stdout
