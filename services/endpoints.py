"""Where a server answers and how to log in: what tests, benchmarks and the demo are given."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True, kw_only=True, slots=True)
class PostgresEndpoint:
    """A PostgreSQL or PgBouncer address; the password is in `dsn` and in no repr."""

    dsn: str = field(repr=False)

    @property
    def host(self) -> str:
        return urlsplit(self.dsn).hostname or "localhost"

    @property
    def port(self) -> int:
        return urlsplit(self.dsn).port or 5432

    @property
    def user(self) -> str:
        return urlsplit(self.dsn).username or ""

    @property
    def password(self) -> str:
        return urlsplit(self.dsn).password or ""

    def database(self, name: str) -> str:
        """The DSN of another database of the same server."""
        return urlsplit(self.dsn)._replace(path=f"/{name}").geturl()

    def environment(self) -> dict[str, str]:
        return {"POSTGRES_DSN": self.dsn}


@dataclass(frozen=True, kw_only=True, slots=True)
class AmqpEndpoint:
    """A RabbitMQ address; the password is in `url` and in no repr."""

    url: str = field(repr=False)

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or "localhost"

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 5672

    @property
    def password(self) -> str:
        return urlsplit(self.url).password or ""

    def environment(self) -> dict[str, str]:
        return {"AMQP_URL": self.url}


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Endpoint:
    """An S3 server with path-style addressing; `bucket` is there from the start."""

    endpoint_url: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    region: str = "us-east-1"
    bucket: str = "specstar"

    def environment(self) -> dict[str, str]:
        return {
            "S3_ENDPOINT_URL": self.endpoint_url,
            "S3_BUCKET": self.bucket,
            "S3_ACCESS_KEY_ID": self.access_key_id,
            "S3_SECRET_ACCESS_KEY": self.secret_access_key,
            "S3_REGION": self.region,
        }


Endpoint = PostgresEndpoint | AmqpEndpoint | S3Endpoint
