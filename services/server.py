"""The life of a server: made in a temporary directory, started, stopped, killed, started again, removed."""

import shutil
import signal
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from services.errors import ServiceError
from services.process import GuardedProcess, give_to, unprivileged_user

READY_SECONDS = 60.0
POLL_SECONDS = 0.02


class Server(ABC):
    """A private server on a loopback port, its data in a temporary directory.

    Use it as a context manager, which opens and closes it. In between, `stop`, `kill`, `start`, `restart`, `pause` and
    `resume` break it and mend it: port, credentials and data stay. Not for several threads at once.
    """

    name: ClassVar[str]
    users: ClassVar[tuple[str, ...]] = ()
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    last_signal: ClassVar[signal.Signals] = signal.SIGKILL
    stop_seconds: ClassVar[float] = 30.0

    def __init__(self) -> None:
        self.owner = unprivileged_user(*self.users)
        self.directory = Path()
        self._opened = False
        self._processes: list[GuardedProcess] = []

    @abstractmethod
    def prepare(self) -> None:
        """Writes configuration and data; called once, before the first start."""

    @property
    def process(self) -> GuardedProcess:
        """The process that clients talk to: what start, stop, kill and pause mean. Made last by `prepare`."""
        if not self._processes:
            raise ServiceError(f"{self.name} is not open; use it as a context manager")
        return self._processes[-1]

    def guarded(
        self, command: Sequence[str | Path], *, name: str | None = None, environment: Mapping[str, str] | None = None
    ) -> GuardedProcess:
        """A process of this server, not yet started; closed with it, the last one made first."""
        process = GuardedProcess(
            name or self.name,
            command,
            directory=self.directory,
            environment=environment,
            owner=self.owner,
            last_signal=self.last_signal,
        )
        self._processes.append(process)
        return process

    def write(self, name: str, content: str | bytes) -> Path:
        """Writes a file that only the server's user can read."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return give_to(path, self.owner)

    @abstractmethod
    def ready(self) -> bool:
        """Whether a client would be served now; must return within a second or two."""

    def settle(self) -> None:  # noqa: B027
        """What is left to do once after the first start, such as creating a user."""

    def open(self) -> Self:
        """Makes the directory and starts the server. Raises ServiceError; nothing is left behind then."""
        if self._opened:
            raise ServiceError(f"{self.name} is open already")
        self.directory = Path(tempfile.mkdtemp(prefix=f"specstar-{self.name}-"))
        self._opened = True
        try:
            give_to(self.directory, self.owner)
            self.prepare()
            self.start()
            self.settle()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Ends the server and removes its data; harmless when repeated."""
        if not self._opened:
            return
        self._opened = False
        for process in reversed(self._processes):
            process.close()
        self._processes.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self) -> None:
        """Starts the server on its port and data and waits until it answers."""
        self._need_open()
        self.process.start()
        self.wait_ready()

    def stop(self) -> None:
        """Shuts the server down in its own orderly way; data stays."""
        self._need_open()
        self.process.stop(self.stop_signal, grace_seconds=self.stop_seconds)

    def kill(self) -> None:
        """SIGKILL to the whole server; data stays as a crash leaves it."""
        self._need_open()
        self.process.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freezes the server: connections stay open and nothing answers."""
        self._need_open()
        self.process.pause()

    def resume(self) -> None:
        self._need_open()
        self.process.resume()

    @property
    def running(self) -> bool:
        return self._opened and self.process.running

    def wait_ready(self, timeout: float = READY_SECONDS) -> None:
        """Raises ServiceError with the end of the log when the server ends or does not answer in time (seconds)."""
        deadline = time.monotonic() + timeout
        while True:
            if not self.process.running:
                raise ServiceError(f"{self.name} ended while starting\n{self.process.tail()}")
            if self.ready():
                return
            if time.monotonic() > deadline:
                raise ServiceError(f"{self.name} did not answer within {timeout:g} s\n{self.process.tail()}")
            time.sleep(POLL_SECONDS)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _need_open(self) -> None:
        if not self._opened:
            raise ServiceError(f"{self.name} is not open; use it as a context manager")
