"""The fixtures that hand out databases, buckets and brokers."""

from __future__ import annotations

import os

import aiormq
import asyncpg
import pytest

from services import AmqpEndpoint, PostgresEndpoint, S3Endpoint, s3_client
from tests.services_plugin import fresh_database

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def tables(dsn: str) -> list[str]:
    connection = await asyncpg.connect(dsn, timeout=10, statement_cache_size=0)
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        await connection.execute("CREATE TABLE seen (number int)")
    finally:
        await connection.close()
    return [row["tablename"] for row in rows]


async def test_every_test_gets_a_database_of_its_own(postgres: PostgresEndpoint, postgres_database: str) -> None:
    with fresh_database(postgres) as other:
        assert other != postgres_database
        assert await tables(postgres_database) == []
        assert await tables(other) == []
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await tables(other)


async def test_pgbouncer_serves_the_same_database(postgres_database: str, pgbouncer_dsn: str) -> None:
    assert await tables(postgres_database) == []
    connection = await asyncpg.connect(pgbouncer_dsn, timeout=10, statement_cache_size=0)
    try:
        assert await connection.fetchval("SELECT count(*) FROM seen") == 0
    finally:
        await connection.close()


async def test_a_message_goes_through_the_broker(amqp_url: str, queue_prefix: str) -> None:
    connection = await aiormq.connect(amqp_url)
    try:
        channel = await connection.channel()
        queue = f"{queue_prefix}jobs"
        await channel.queue_declare(queue, exclusive=True)
        await channel.basic_publish(b"hello", routing_key=queue)
        assert (await channel.basic_get(queue)).body == b"hello"
    finally:
        await connection.close()


def test_every_test_gets_a_bucket_of_its_own(s3: S3Endpoint, s3_bucket: str) -> None:
    assert s3_client.list_keys(s3, s3_bucket) == []
    s3_client.request(s3, "PUT", f"/{s3_bucket}/a key/with slashes")
    assert s3_client.list_keys(s3, s3_bucket) == ["a key/with slashes"]


def test_no_endpoint_shows_its_password(postgres: PostgresEndpoint, rabbitmq: AmqpEndpoint, s3: S3Endpoint) -> None:
    assert postgres.password
    assert postgres.password not in repr(postgres)
    assert rabbitmq.password
    assert rabbitmq.password not in repr(rabbitmq)
    assert s3.secret_access_key not in repr(s3)


@pytest.mark.xdist_group("together")
def test_tests_of_a_group_stay_together(request: pytest.FixtureRequest) -> None:
    """Else each worker would start a server of its own for them; pytest-xdist says nothing when it cannot group."""
    assert "PYTEST_XDIST_WORKER" not in os.environ or request.node.nodeid.endswith("@together")
