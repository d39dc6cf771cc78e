"""One set of servers for many users: each started once, when first asked for, side by side, and all closed together."""

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Literal, Self, TypeVar, get_args

from services.ceph import CephS3Server
from services.endpoints import AmqpEndpoint, Endpoint, PostgresEndpoint, S3Endpoint
from services.errors import ServiceError
from services.pgbouncer import PgBouncerServer
from services.postgres import PostgresServer
from services.rabbitmq import RabbitMQServer

ServiceName = Literal["postgres", "pgbouncer", "rabbitmq", "s3"]
SERVICE_NAMES: tuple[ServiceName, ...] = get_args(ServiceName)
START_SECONDS = 110.0

EndpointT = TypeVar("EndpointT", PostgresEndpoint, AmqpEndpoint, S3Endpoint)
AnyServer = PostgresServer | PgBouncerServer | RabbitMQServer | CephS3Server


class ServiceHost:
    """Owns the servers it starts; thread-safe. `given` are servers of the user's own, used instead of starting one.

    `postgres_settings` go on top of the defaults of PostgreSQL.
    """

    def __init__(
        self, given: dict[ServiceName, Endpoint] | None = None, *, postgres_settings: Mapping[str, str] | None = None
    ) -> None:
        self._given = dict(given or {})
        self._postgres_settings = dict(postgres_settings or {})
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(len(SERVICE_NAMES), thread_name_prefix="services")
        self._starting: dict[ServiceName, Future[Endpoint]] = {}
        self._servers: list[AnyServer] = []
        self._closed = False

    def request(self, name: ServiceName) -> Future[Endpoint]:
        """Starts the server unless it is there or under way; does not wait."""
        with self._lock:
            if self._closed:
                raise ServiceError("the servers have been closed")
            if name not in self._starting:
                # Asked for here, so that the thread that waits for it is not the only free one.
                target = self._submit("postgres") if name == "pgbouncer" and name not in self._given else None
                self._submit(name, target)
            return self._starting[name]

    def prepare(self, name: ServiceName) -> None:
        """The same, for callers that want the server later."""
        self.request(name)

    def endpoint(self, name: ServiceName) -> Endpoint:
        """Waits until the server answers. Raises ServiceError."""
        try:
            return self.request(name).result(START_SECONDS)
        except TimeoutError as error:
            raise ServiceError(f"{name} did not start within {START_SECONDS:g} s") from error

    def postgres(self) -> PostgresEndpoint:
        return self._typed("postgres", PostgresEndpoint)

    def pgbouncer(self) -> PostgresEndpoint:
        return self._typed("pgbouncer", PostgresEndpoint)

    def rabbitmq(self) -> AmqpEndpoint:
        return self._typed("rabbitmq", AmqpEndpoint)

    def s3(self) -> S3Endpoint:
        return self._typed("s3", S3Endpoint)

    def secrets(self) -> frozenset[str]:
        """The passwords and secret keys of the servers that have started so far: what no output may show."""
        with self._lock:
            started = [future for future in self._starting.values() if future.done() and not future.cancelled()]
        endpoints = [future.result() for future in started if future.exception() is None]
        return frozenset(
            endpoint.secret_access_key if isinstance(endpoint, S3Endpoint) else endpoint.password
            for endpoint in endpoints
        ) - {""}

    def environment(self, names: Iterable[ServiceName]) -> dict[str, str]:
        """The variables of the named servers, which are started side by side."""
        wanted = list(names)
        for name in wanted:
            self.prepare(name)
        return {key: value for name in wanted for key, value in self.endpoint(name).environment().items()}

    def close(self) -> None:
        with self._lock:
            self._closed = True
        # A start under way ends before its server can be closed.
        self._threads.shutdown(wait=True, cancel_futures=True)
        for server in reversed(self._servers):
            server.close()
        self._servers.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, name: ServiceName, target: Future[Endpoint] | None = None) -> Future[Endpoint]:
        if name not in self._starting:
            self._starting[name] = self._threads.submit(self._start, name, target)
        return self._starting[name]

    def _start(self, name: ServiceName, target: Future[Endpoint] | None) -> Endpoint:
        if name in self._given:
            return self._given[name]
        server: AnyServer
        if name == "postgres":
            server = PostgresServer(settings=self._postgres_settings)
        elif name == "rabbitmq":
            server = RabbitMQServer()
        elif name == "s3":
            server = CephS3Server()
        else:
            postgres = target.result(START_SECONDS) if target is not None else None
            if not isinstance(postgres, PostgresEndpoint):
                raise ServiceError("pgbouncer needs a PostgreSQL server")
            server = PgBouncerServer(postgres)
        server.open()
        with self._lock:
            self._servers.append(server)
        return server.endpoint

    def _typed(self, name: ServiceName, kind: type[EndpointT]) -> EndpointT:
        endpoint = self.endpoint(name)
        if not isinstance(endpoint, kind):
            raise ServiceError(f"{name} was given an endpoint of the wrong kind")
        return endpoint
