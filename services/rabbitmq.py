"""RabbitMQ: one node, with its own name daemon, cookie and home."""

import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from services.endpoints import AmqpEndpoint
from services.ports import LOOPBACK, free_port
from services.process import run_program
from services.programs import need
from services.server import Server

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = b"\x01"


# The broker shares the machine with its clients: https://www.rabbitmq.com/docs/runtime#cpu-reduce-idle-usage
_NO_BUSY_WAITING = "+sbwt none +sbwtdcpu none +sbwtdio none"


@dataclass
class Peers:
    """What the nodes of a cluster share. The first one runs their name daemon."""

    epmd_port: int = field(default_factory=free_port)
    cookie: str = field(default_factory=lambda: secrets.token_hex(16))
    password: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    nodes: list[str] = field(default_factory=list)


class RabbitMQServer(Server):
    """`settings` are lines of rabbitmq.conf; `internals` are numbers of the `rabbit` application that only Erlang
    terms can set (`consumer_timeout` in milliseconds with `channel_tick_interval`, ...). With a `certificate` (PEM, of the
    server and its key) it speaks TLS too, at `tls_url`; `settings` say more about that (`ssl_options.verify`, ...)."""

    name = "rabbitmq"
    users: ClassVar[tuple[str, ...]] = ("rabbitmq",)
    stop_seconds = 60.0

    def __init__(
        self,
        *,
        settings: Mapping[str, str] | None = None,
        internals: Mapping[str, int] | None = None,
        certificate: bytes | None = None,
        peers: Peers | None = None,
    ) -> None:
        super().__init__()
        self._settings = dict(settings or {})
        self._certificate = certificate
        self._internals = dict(internals or {})
        self._user = "specstar_owner"
        self._peers = peers if peers is not None else Peers()
        password = self._peers.password
        self.endpoint = AmqpEndpoint(url=f"amqp://{self._user}:{password}@{LOOPBACK}:{free_port()}/")
        self._node = f"specstar-{secrets.token_hex(4)}@localhost"
        self.tls_url = f"amqps://{self._user}:{password}@{LOOPBACK}:{free_port()}/"
        self._peers.nodes.append(self._node)
        self._distribution_port, self._control_port = free_port(), free_port()

    @property
    def url(self) -> str:
        return self.endpoint.url

    def prepare(self) -> None:
        environment = self._environment()
        lines = {
            "listeners.tcp.default": f"{LOOPBACK}:{self.endpoint.port}",
            "default_user": self._user,
            "default_pass": self.endpoint.password,
            **self._tls(),
            **self._cluster(),
            **self._settings,
        }
        terms = ", ".join(f"{{{name}, {value}}}" for name, value in self._internals.items())
        for name, content in (
            ("rabbitmq.conf", "".join(f"{key} = {value}\n" for key, value in lines.items())),
            ("advanced.config", f"[{{rabbit, [{terms}]}}].\n"),
            ("rabbitmq-env.conf", ""),
            ("plugins", "[].\n"),
            (".erlang.cookie", self._peers.cookie),
        ):
            self.write(name, content)
        # In the foreground and ours: the broker would start a daemon that stays.
        if self._node == self._peers.nodes[0]:
            epmd: list[str | Path] = [need("epmd"), "-port", str(self._peers.epmd_port), "-address", LOOPBACK]
            self.guarded(epmd, name="epmd", environment=environment).start()
        self.guarded([need("rabbitmq-server")], environment=environment)

    def ready(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.endpoint.port), timeout=1) as connection:
                connection.sendall(PROTOCOL_HEADER)
                return connection.recv(1) == METHOD_FRAME
        except OSError:
            return False

    def ctl(self, *arguments: str, timeout: float = 60) -> str:
        """Runs rabbitmqctl on this node (`list_queues`, `close_all_connections`, ...). Raises ServiceError."""
        return run_program(
            [need("rabbitmqctl"), "-q", "-n", self._node, *arguments],
            directory=self.directory,
            owner=self.owner,
            environment=self._environment(),
            timeout=timeout,
        )

    def _tls(self) -> dict[str, str]:
        if self._certificate is None:
            return {}
        file = str(self.write("server.pem", self._certificate))
        return {
            "listeners.ssl.default": f"{LOOPBACK}:{AmqpEndpoint(url=self.tls_url).port}",
            "ssl_options.certfile": file,
            "ssl_options.keyfile": file,
            "ssl_options.cacertfile": file,
        }

    def _cluster(self) -> dict[str, str]:
        if len(self._peers.nodes) == 1:
            return {}
        discovery = "cluster_formation"
        nodes = {f"{discovery}.classic_config.nodes.{number}": node for number, node in enumerate(self._peers.nodes, 1)}
        return {f"{discovery}.peer_discovery_backend": "classic_config", **nodes}

    def _environment(self) -> dict[str, str]:
        here = self.directory
        inherited = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TMPDIR") if name in os.environ}
        paths: dict[str, Path] = {
            "HOME": here,
            "RABBITMQ_MNESIA_BASE": here / "mnesia",
            "RABBITMQ_LOG_BASE": here / "log",
            "RABBITMQ_PID_FILE": here / "rabbitmq.pid",
            "RABBITMQ_ENABLED_PLUGINS_FILE": here / "plugins",
            "RABBITMQ_CONFIG_FILE": here / "rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": here / "advanced.config",
            "RABBITMQ_CONF_ENV_FILE": here / "rabbitmq-env.conf",
        }
        return {
            "LANG": "C.UTF-8",
            **inherited,
            **{name: str(path) for name, path in paths.items()},
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CTL_DIST_PORT_MIN": str(self._control_port),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(self._control_port + 10),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} " + _NO_BUSY_WAITING,
            "ERL_EPMD_PORT": str(self._peers.epmd_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
        }


@contextmanager
def rabbitmq_cluster(size: int = 3) -> Iterator[list[RabbitMQServer]]:
    """Nodes of one cluster, all running. Kill the first one last: the name daemon of all is its own."""
    peers = Peers()
    nodes = [RabbitMQServer(peers=peers) for _ in range(size)]
    with ExitStack() as stack:
        yield [stack.enter_context(node) for node in nodes]
