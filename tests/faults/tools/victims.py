"""Processes made to be killed: forked from a small program that has imported everything, so that one starts in milliseconds.

A victim tells what it does in records through a pipe. A record that was sent arrives whole, however its sender died.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import msgspec

__all__ = ["Told", "Victim", "victims"]

_PRELOADED = ["tests.faults.tools.writing", "tests.faults.tools.working"]
_FAULT = "fault"
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_PRELOADED)
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(list[Any])


class Told:
    """What a victim sends by. A record is one write of less than a pipe takes at once: whole, or not sent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __call__(self, *record: Any) -> None:
        data = _encoder.encode(record)
        assert len(data) < 4000, record
        self._connection.send_bytes(data)


def _live(program: Callable[..., None], connection: Connection, arguments: tuple[Any, ...]) -> None:
    told = Told(connection)
    try:
        program(told, *arguments)
    except BaseException:
        text = traceback.format_exc()
        told(_FAULT, text[-3000:].encode("ascii", "replace").decode())
        os._exit(1)


class Victim:
    """One process. Its records come in `records`, those it sent before it died included, once `ended` is set."""

    def __init__(self, program: Callable[..., None], *arguments: Any) -> None:
        reading, writing = _context.Pipe(duplex=False)
        self.records: list[list[Any]] = []
        self.ended = threading.Event()
        self.faults: list[str] = []
        self._heard = threading.Condition()
        self._process = _context.Process(target=_live, args=(program, writing, arguments), daemon=True)
        self._process.start()
        writing.close()
        self._reader = threading.Thread(target=self._read, args=(reading,), name="victim", daemon=True)
        self._reader.start()
        pid = self._process.pid
        assert pid is not None
        self.pid = pid
        self.over = False

    def _read(self, reading: Connection) -> None:
        with reading:
            while True:
                try:
                    record = _decoder.decode(reading.recv_bytes())
                except EOFError:
                    break
                with self._heard:
                    if record[0] == _FAULT:
                        self.faults.append(record[1])
                    else:
                        self.records.append(record)
                    self._heard.notify_all()
        with self._heard:
            self.ended.set()
            self._heard.notify_all()

    def heard(self, enough: Callable[[list[list[Any]]], bool], *, within: float = 60.0) -> bool:
        """Wait until the records are enough, or the process ended: then False. Blocks."""
        with self._heard:
            told = self._heard.wait_for(lambda: enough(self.records) or self.ended.is_set(), within)
            assert told, f"process {self.pid} said nothing of the sort within {within:g} s: {self.records[-3:]}"
            return enough(self.records)

    def heard_word(self, word: str, *, within: float = 60.0) -> bool:
        """Wait for a record that begins with a word."""
        return self.heard(lambda records: any(record[0] == word for record in records), within=within)

    def heard_more(self) -> bool:
        """Wait for one more record."""
        before = len(self.records)
        return self.heard(lambda records: len(records) > before)

    def kill(self) -> float:
        """Kill it with `kill -9`, at once; the time, by the clock that all processes share, after which it did nothing."""
        moment = time.monotonic()
        self.signal(signal.SIGKILL)
        return moment

    def signal(self, number: int) -> None:
        """Send a signal; one that is gone already gets none."""
        # It may end at any moment, and whoever looks after it may notice first.
        with suppress(ProcessLookupError):
            if not self.over and self._process.is_alive():
                os.kill(self.pid, number)

    def end(self, within: float = 60.0) -> int:
        """Wait for its end; its exit code, negative for a signal. Raises `AssertionError` for what went wrong in it."""
        self._process.join(within)
        code = self._process.exitcode
        assert code is not None, f"process {self.pid} did not end within {within:g} s"
        self._reader.join(within)
        assert not self._reader.is_alive(), "somebody holds the pipe of a process that is gone"
        self._process.close()
        self.over = True
        assert not self.faults, self.faults[0]
        return code

    def discard(self) -> None:
        """Be rid of it, whatever it does."""
        if not self.over:
            self._process.kill()
            self._process.join(30)
            self._reader.join(30)
            self._process.close()


@contextmanager
def victims() -> Iterator[Callable[..., Victim]]:
    """Starts victims; none outlives the block."""
    started: list[Victim] = []

    def start(program: Callable[..., None], *arguments: Any) -> Victim:
        started[:] = [victim for victim in started if not victim.over]
        started.append(Victim(program, *arguments))
        return started[-1]

    try:
        yield start
    finally:
        for victim in started:
            victim.discard()
