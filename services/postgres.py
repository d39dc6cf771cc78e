"""PostgreSQL, with the server's own defaults: durable, 100 connections, password login."""

import ctypes
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from services.endpoints import PostgresEndpoint
from services.ports import LOOPBACK, free_port
from services.process import run_program
from services.programs import need
from services.server import Server

DATABASE = "specstar"


class PostgresServer(Server):
    """`settings` go on top of the defaults (`max_connections`, `ssl`, ...); `files` (such as a TLS key) are put into
    the data directory, readable by the server alone. Runs as an unprivileged user when we are root."""

    name = "postgres"
    users = ("postgres",)
    stop_signal = signal.SIGINT
    # An immediate shutdown: a SIGKILL would leave a System V shared memory segment behind.
    last_signal = signal.SIGQUIT

    def __init__(self, *, settings: Mapping[str, str] | None = None, files: Mapping[str, bytes] | None = None) -> None:
        super().__init__()
        self._settings = dict(settings or {})
        self._files = dict(files or {})
        port, password = free_port(), secrets.token_urlsafe(18)
        self.endpoint = PostgresEndpoint(dsn=f"postgresql://specstar_owner:{password}@{LOOPBACK}:{port}/{DATABASE}")

    @property
    def dsn(self) -> str:
        return self.endpoint.dsn

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def prepare(self) -> None:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.endpoint.port),
            "unix_socket_directories": "",
            # In the data directory, so that a killed server leaves nothing in /dev/shm.
            "dynamic_shared_memory_type": "mmap",
            **self._settings,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self.guarded([need("postgres"), "-D", self.data, *options])
        password_file = self.write("password", self.endpoint.password)
        owner = ("--username", self.endpoint.user, "--pwfile", password_file, "--auth", "scram-sha-256")
        self._run(need("initdb"), "--pgdata", self.data, *owner, "--encoding", "UTF8", "--no-sync", *self._locale())
        password_file.unlink()
        for name, content in self._files.items():
            self.write(f"data/{name}", content)

    def settle(self) -> None:
        self.sql(f"CREATE DATABASE {DATABASE}", database="postgres")

    def ready(self) -> bool:
        address = ("-h", LOOPBACK, "-p", str(self.endpoint.port))
        return (
            subprocess.run([str(need("pg_isready")), "-t", "1", *address], capture_output=True, check=False).returncode
            == 0
        )

    def sql(self, statement: str, *, database: str = DATABASE) -> str:
        """Runs a statement as the owner through psql and returns its unaligned output. Raises ServiceError."""
        environment = {
            **os.environ,
            "PGHOST": LOOPBACK,
            "PGPORT": str(self.endpoint.port),
            "PGUSER": self.endpoint.user,
            "PGPASSWORD": self.endpoint.password,
            "PGDATABASE": database,
            "PGCONNECT_TIMEOUT": "10",
        }
        options = ("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1")
        return self._run(need("psql"), *options, "-c", statement, environment=environment)

    def close(self) -> None:
        segment = self._shared_memory_segment()
        super().close()
        if segment is not None and sys.platform == "linux":
            ipc_rmid = 0
            ctypes.CDLL(None).shmctl(segment, ipc_rmid, None)

    def _shared_memory_segment(self) -> int | None:
        """The segment that a killed server left; line 7 of postmaster.pid is "key id"."""
        if not self._opened or self.running:
            return None
        try:
            return int((self.data / "postmaster.pid").read_text().splitlines()[6].split()[1])
        except (OSError, IndexError, ValueError):
            return None

    def _locale(self) -> list[str]:
        # A linguistic collation, as most production databases have: ordering that only works under "C" shows up here.
        help_text = self._run(need("initdb"), "--help")
        if "--icu-locale" in help_text:
            return ["--locale", "C.UTF-8", "--locale-provider", "icu", "--icu-locale", "en-US"]
        return ["--locale", "C.UTF-8"]

    def _run(self, *command: str | Path, environment: Mapping[str, str] | None = None) -> str:
        return run_program(command, directory=self.directory, owner=self.owner, environment=environment)
