"""Real servers for tests, benchmarks and the demo: private, on loopback, in temporary directories, always stopped.

    with services.postgres() as server:
        connect(server.dsn)
        server.kill()
        server.start()

Needs the standard library and the servers' programs, nothing of specstar. See docs/servers.md.
"""

from services.ceph import CephS3Server
from services.endpoints import AmqpEndpoint, Endpoint, PostgresEndpoint, S3Endpoint
from services.errors import MissingProgramError, ServiceError
from services.host import ServiceHost
from services.pgbouncer import PgBouncerServer
from services.postgres import PostgresServer
from services.rabbitmq import RabbitMQServer, rabbitmq_cluster
from services.server import Server

postgres = PostgresServer
pgbouncer = PgBouncerServer
rabbitmq = RabbitMQServer
s3 = CephS3Server

__all__ = [
    "AmqpEndpoint",
    "CephS3Server",
    "Endpoint",
    "MissingProgramError",
    "PgBouncerServer",
    "PostgresEndpoint",
    "PostgresServer",
    "RabbitMQServer",
    "S3Endpoint",
    "Server",
    "ServiceError",
    "ServiceHost",
    "pgbouncer",
    "postgres",
    "rabbitmq",
    "rabbitmq_cluster",
    "s3",
]
