"""Fixtures for real servers. tests/README.md lists them.

The session's process owns one set of servers; workers of pytest-xdist ask it for endpoints. A server starts when the
first collected test that needs it is known, beside the running tests, and is closed when the session ends.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

import asyncpg
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

import services
from services import AmqpEndpoint, Endpoint, PostgresEndpoint, S3Endpoint, s3_client
from services.given import given_endpoints
from services.host import ServiceHost, ServiceName
from services.wire import RemoteHost, SharedHost

T = TypeVar("T")
ADMIN_TIMEOUT_SECONDS = 30.0

# Each test has a database of its own, and none of them cuts the power: servers that are killed are private ones.
SHARED_POSTGRES = {"fsync": "off", "max_connections": "300"}
# A server of this fixture's own, which the test may break: not shared, so all its users go to one worker.
PRIVATE_FIXTURES = ("private_postgres", "private_pgbouncer", "private_rabbitmq", "private_s3")
NEEDED_BY: dict[str, ServiceName] = {
    "postgres": "postgres",
    "pgbouncer": "pgbouncer",
    "rabbitmq": "rabbitmq",
    "s3": "s3",
}
OWN_SCHEMAS = "SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'"


class Host(Protocol):
    def prepare(self, name: ServiceName) -> None: ...

    def endpoint(self, name: ServiceName) -> Endpoint: ...


HOST = pytest.StashKey[Host]()
OWNED = pytest.StashKey[contextlib.ExitStack]()
SOCKET = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    worker_input: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker_input is not None:
        config.stash[HOST] = RemoteHost(worker_input["services_socket"])
        return
    owned = contextlib.ExitStack()
    host = owned.enter_context(ServiceHost(given_endpoints(), postgres_settings=SHARED_POSTGRES))
    config.stash[HOST] = host
    config.stash[OWNED] = owned


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """A worker of pytest-xdist is about to start: tell it where to ask."""
    config: pytest.Config = node.config
    if SOCKET not in config.stash:
        host = config.stash[HOST]
        assert isinstance(host, ServiceHost)
        shared = SharedHost(host)
        config.stash[OWNED].callback(shared.close)
        config.stash[SOCKET] = shared.path
    node.workerinput["services_socket"] = config.stash[SOCKET]


def pytest_unconfigure(config: pytest.Config) -> None:
    if OWNED in config.stash:
        config.stash[OWNED].close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        names: tuple[str, ...] = getattr(item, "fixturenames", ())
        if any(name in PRIVATE_FIXTURES for name in names) and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    host = session.config.stash[HOST]
    wanted = {
        NEEDED_BY[name] for item in session.items for name in getattr(item, "fixturenames", ()) if name in NEEDED_BY
    }
    for service in sorted(wanted):
        host.prepare(service)


class PostgresAdmin:
    """One connection to the owner's database, kept in a loop of its own, for synchronous test code."""

    def __init__(self, portal: BlockingPortal, server: PostgresEndpoint) -> None:
        self._portal = portal
        self._server = server
        self._connection = portal.call(self._connect)
        self._emptied: list[str] = []

    def execute(self, statement: str) -> None:
        """Runs one SQL statement in a transaction of its own."""
        self._portal.call(self._connection.execute, statement)

    def close(self) -> None:
        self._portal.call(self._connection.close)

    async def _connect(self, dsn: str | None = None) -> asyncpg.Connection:
        return await asyncpg.connect(
            dsn or self._server.dsn, timeout=ADMIN_TIMEOUT_SECONDS, command_timeout=ADMIN_TIMEOUT_SECONDS
        )

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The DSN of a new, empty database, dropped afterwards whoever is still connected."""
        dsn = self.create_database()
        try:
            yield dsn
        finally:
            self.execute(f'DROP DATABASE IF EXISTS "{dsn.rpartition("/")[2]}" WITH (FORCE)')

    @contextlib.contextmanager
    def emptied_database(self) -> Iterator[str]:
        """The DSN of an empty database that an earlier test may have used: a quicker one, for tests that only make tables.

        Emptied afterwards; dropped by `drop_emptied`.
        """
        dsn = self._emptied.pop() if self._emptied else self.create_database()
        try:
            yield dsn
        finally:
            self._portal.call(self._empty, dsn)
            self._emptied.append(dsn)

    def drop_emptied(self) -> None:
        for dsn in self._emptied:
            self.execute(f'DROP DATABASE "{dsn.rpartition("/")[2]}" WITH (FORCE)')

    async def _empty(self, dsn: str) -> None:
        connection = await self._connect(dsn)
        try:
            # A lock that the test has left behind fails it here, by the time limit.
            for row in await connection.fetch(OWN_SCHEMAS):
                await connection.execute(f'DROP SCHEMA "{row[0]}" CASCADE')
            await connection.execute("CREATE SCHEMA public")
        finally:
            await connection.close()

    def create_database(self) -> str:
        """The DSN of a new, empty database."""
        name = f"test_{secrets.token_hex(6)}"
        self.execute(f'CREATE DATABASE "{name}"')
        return self._server.database(name)


@contextlib.contextmanager
def postgres_admin_of(server: PostgresEndpoint) -> Iterator[PostgresAdmin]:
    with start_blocking_portal(name="tests-postgres-admin") as portal:
        admin = PostgresAdmin(portal, server)
        try:
            yield admin
        finally:
            admin.close()


@contextlib.contextmanager
def fresh_database(server: PostgresEndpoint) -> Iterator[str]:
    """The DSN of a new, empty database on any server, dropped afterwards whoever is still connected."""
    with postgres_admin_of(server) as admin, admin.database() as dsn:
        yield dsn


def _endpoint(config: pytest.Config, name: ServiceName, kind: type[T]) -> T:
    endpoint = config.stash[HOST].endpoint(name)
    assert isinstance(endpoint, kind)
    return endpoint


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> PostgresEndpoint:
    """The session's PostgreSQL server. Shared: do not break it, and take `postgres_database` for data."""
    return _endpoint(pytestconfig, "postgres", PostgresEndpoint)


@pytest.fixture(scope="session")
def postgres_admin(postgres: PostgresEndpoint) -> Iterator[PostgresAdmin]:
    """A connection to the shared server that stays open: tests make and drop their databases with it."""
    with postgres_admin_of(postgres) as admin:
        yield admin
        admin.drop_emptied()


@pytest.fixture
def postgres_database(postgres_admin: PostgresAdmin) -> Iterator[str]:
    """The DSN of a new, empty database for this test."""
    with postgres_admin.database() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def pgbouncer(pytestconfig: pytest.Config) -> PostgresEndpoint:
    """PgBouncer in transaction mode, in front of the shared PostgreSQL server."""
    return _endpoint(pytestconfig, "pgbouncer", PostgresEndpoint)


@pytest.fixture
def pgbouncer_dsn(postgres_database: str, pgbouncer: PostgresEndpoint) -> str:
    """The DSN, through PgBouncer, of this test's `postgres_database`."""
    return pgbouncer.database(postgres_database.rpartition("/")[2])


@pytest.fixture(scope="session")
def rabbitmq(pytestconfig: pytest.Config) -> AmqpEndpoint:
    """The session's RabbitMQ server. Shared: do not break it, and take `queue_prefix` for names."""
    return _endpoint(pytestconfig, "rabbitmq", AmqpEndpoint)


@pytest.fixture(scope="session")
def amqp_url(rabbitmq: AmqpEndpoint) -> str:
    """The URL of the shared server."""
    return rabbitmq.url


@pytest.fixture
def queue_prefix() -> str:
    """A prefix for queue names that no other test has."""
    return f"test-{secrets.token_hex(6)}:"


@pytest.fixture(scope="session")
def s3(pytestconfig: pytest.Config) -> S3Endpoint:
    """The session's S3 server. Shared: do not break it, and take `s3_bucket` for data."""
    return _endpoint(pytestconfig, "s3", S3Endpoint)


def new_bucket(server: S3Endpoint) -> str:
    """The name of a new, empty bucket."""
    name = f"test-{secrets.token_hex(8)}"
    s3_client.create_bucket(server, name)
    return name


@pytest.fixture
def s3_bucket(s3: S3Endpoint) -> Iterator[str]:
    """The name of a new, empty bucket, removed afterwards with all that is in it."""
    name = new_bucket(s3)
    yield name
    s3_client.delete_bucket(s3, name)


@pytest.fixture(scope="module")
def private_postgres() -> Iterator[services.PostgresServer]:
    """A PostgreSQL server of this module's own, to stop, kill and start."""
    with services.postgres() as server:
        yield server


@pytest.fixture
def private_postgres_database(private_postgres: services.PostgresServer) -> str:
    """The DSN of a new, empty database of `private_postgres` for this test; it goes with the server."""
    with postgres_admin_of(private_postgres.endpoint) as admin:
        return admin.create_database()


@pytest.fixture(scope="module")
def private_pgbouncer(private_postgres: services.PostgresServer) -> Iterator[services.PgBouncerServer]:
    """A PgBouncer of this module's own, in front of its `private_postgres`."""
    with services.pgbouncer(private_postgres.endpoint) as server:
        yield server


@pytest.fixture(scope="module")
def private_rabbitmq() -> Iterator[services.RabbitMQServer]:
    """A RabbitMQ server of this module's own, to stop, kill and start."""
    with services.rabbitmq() as server:
        yield server


@pytest.fixture(scope="module")
def private_s3() -> Iterator[services.CephS3Server]:
    """An S3 server of this module's own, to stop, kill and start (the gateway; the data outlives it)."""
    with services.s3() as server:
        yield server


@pytest.fixture
def private_s3_bucket(private_s3: services.CephS3Server) -> str:
    """The name of a new, empty bucket of `private_s3` for this test; it goes with the server."""
    return new_bucket(private_s3.endpoint)
