"""Servers of the user's own, named by environment variables."""

import os
from collections.abc import Mapping

from services.endpoints import AmqpEndpoint, Endpoint, PostgresEndpoint, S3Endpoint
from services.errors import ServiceError
from services.host import ServiceName

POSTGRES = "SPECSTAR_TEST_POSTGRES_DSN"
PGBOUNCER = "SPECSTAR_TEST_PGBOUNCER_DSN"
AMQP = "SPECSTAR_TEST_AMQP_URL"
S3_ENDPOINT = "SPECSTAR_TEST_S3_ENDPOINT_URL"
S3_KEY = "SPECSTAR_TEST_S3_ACCESS_KEY_ID"
S3_SECRET = "SPECSTAR_TEST_S3_SECRET_ACCESS_KEY"
S3_REGION = "SPECSTAR_TEST_S3_REGION"


def given_endpoints(environment: Mapping[str, str] = os.environ) -> dict[ServiceName, Endpoint]:
    """The servers that SPECSTAR_TEST_* variables point at. Raises ServiceError for an endpoint without its keys."""
    given: dict[ServiceName, Endpoint] = {}
    if dsn := environment.get(POSTGRES):
        given["postgres"] = PostgresEndpoint(dsn=dsn)
    if dsn := environment.get(PGBOUNCER):
        given["pgbouncer"] = PostgresEndpoint(dsn=dsn)
    if url := environment.get(AMQP):
        given["rabbitmq"] = AmqpEndpoint(url=url)
    if endpoint_url := environment.get(S3_ENDPOINT):
        key, secret = environment.get(S3_KEY), environment.get(S3_SECRET)
        if not key or not secret:
            raise ServiceError(f"{S3_ENDPOINT} is set, so {S3_KEY} and {S3_SECRET} must be set too")
        given["s3"] = S3Endpoint(
            endpoint_url=endpoint_url,
            access_key_id=key,
            secret_access_key=secret,
            region=environment.get(S3_REGION) or "us-east-1",
        )
    return given
