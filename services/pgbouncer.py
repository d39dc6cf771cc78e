"""PgBouncer in transaction mode, in front of a PostgreSQL server."""

import signal
import socket
from typing import ClassVar

from services.endpoints import PostgresEndpoint
from services.ports import LOOPBACK, free_port
from services.programs import need
from services.server import Server


class PgBouncerServer(Server):
    """Serves every database of the given server, under the same user and password."""

    name = "pgbouncer"
    users: ClassVar[tuple[str, ...]] = ("postgres",)
    stop_signal = signal.SIGINT

    def __init__(self, target: PostgresEndpoint, *, pool_mode: str = "transaction", pool_size: int = 10) -> None:
        super().__init__()
        self._target = target
        self._pool_mode = pool_mode
        self._pool_size = pool_size
        address = f"{target.host}:{target.port}"
        self.endpoint = PostgresEndpoint(dsn=target.dsn.replace(f"@{address}/", f"@{LOOPBACK}:{free_port()}/"))

    @property
    def dsn(self) -> str:
        return self.endpoint.dsn

    def prepare(self) -> None:
        users = self.write("users.txt", f'"{self._target.user}" "{self._target.password}"\n')
        configuration = self.write(
            "pgbouncer.ini",
            f"""[databases]
* = host={self._target.host} port={self._target.port}
[pgbouncer]
listen_addr = {LOOPBACK}
listen_port = {self.endpoint.port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = {self._pool_mode}
default_pool_size = {self._pool_size}
max_client_conn = 500
server_idle_timeout = 5
ignore_startup_parameters = extra_float_digits
""",
        )
        self.guarded([need("pgbouncer"), configuration])

    def ready(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.endpoint.port), timeout=1):
                return True
        except OSError:
            return False
