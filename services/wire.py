"""One set of servers shared by several processes: the owner listens on a UNIX socket, the others ask it for endpoints.

A request is one line of JSON, `{"service": NAME, "wait": BOOL}`; the answer is one line, an endpoint or an error.
"""

import json
import socket
import socketserver
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.endpoints import AmqpEndpoint, Endpoint, PostgresEndpoint, S3Endpoint
from services.errors import ServiceError
from services.host import SERVICE_NAMES, START_SECONDS, ServiceHost, ServiceName

_KINDS: dict[str, type[PostgresEndpoint] | type[AmqpEndpoint] | type[S3Endpoint]] = {
    "postgres": PostgresEndpoint,
    "pgbouncer": PostgresEndpoint,
    "rabbitmq": AmqpEndpoint,
    "s3": S3Endpoint,
}


class SharedHost:
    """Serves a ServiceHost on a socket in a folder that only its owner can enter. Close it before the host."""

    def __init__(self, host: ServiceHost) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="specstar-services-")
        self.path = str(Path(self._folder.name) / "socket")

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(json.dumps(answer(host, json.loads(self.rfile.readline()))).encode() + b"\n")

        self._server = socketserver.ThreadingUnixStreamServer(self.path, Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="services-socket")
        self._thread.daemon = True
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._folder.cleanup()


class RemoteHost:
    """Asks a SharedHost of another process; the servers stay that process's."""

    def __init__(self, path: str) -> None:
        self._path = path

    def prepare(self, name: ServiceName) -> None:
        """Has the server started, without waiting for it."""
        self._ask(name, wait=False)

    def endpoint(self, name: ServiceName) -> Endpoint:
        """Waits until the server answers. Raises ServiceError."""
        return _KINDS[name](**self._ask(name, wait=True))

    def _ask(self, name: ServiceName, *, wait: bool) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(START_SECONDS + 5)
            connection.connect(self._path)
            connection.sendall(json.dumps({"service": name, "wait": wait}).encode() + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline()
        if not line:
            raise ServiceError(f"the process that owns the servers ended while {name} was asked for")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ServiceError(reply["error"])
        return reply


def answer(host: ServiceHost, request: dict[str, Any]) -> dict[str, Any]:
    name = request["service"]
    if name not in SERVICE_NAMES:
        return {"error": f"no service is named {name!r}"}
    try:
        future = host.request(name)
        return asdict(future.result(START_SECONDS)) if request["wait"] else {}
    except (ServiceError, TimeoutError) as error:
        return {"error": str(error) or f"{name} did not start within {START_SECONDS:g} s"}
