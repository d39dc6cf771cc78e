"""The write-ahead log is brought into the database beside the writer, and begins anew."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest

from specstar.backends.sqlite import checkpoints, database_file, descriptors
from specstar.backends.sqlite.database import Database
from specstar.backends.sqlite.database_file import DatabaseFile
from specstar.backends.sqlite.lanes import Lanes
from specstar.errors import BackendError
from specstar.runtime import Gate

LONG = 60


class Write:
    size = 1000

    def __init__(self, number: int) -> None:
        self.number = number

    def run(self, database: Database) -> None:
        # One page each.
        database.execute("INSERT INTO numbers VALUES (?, zeroblob(3500))", (self.number,))


class Count:
    def run(self, database: Database) -> int:
        return int(database.execute("SELECT count(*) FROM numbers")[0][0])


class Opened:
    def __init__(self, path: Path, gate: Gate) -> None:
        self.path = path
        self.file = DatabaseFile(str(path), readers=1, busy_timeout=5)
        self.file.open()
        with self.file.writer.transaction():
            self.file.writer.execute("CREATE TABLE numbers (number INTEGER, filling BLOB)")
        self.lanes = Lanes(gate.settle(), self.file, batch_bytes=8 << 20)

    async def write(self, numbers: range) -> None:
        for number in numbers:
            await self.lanes.write(Write(number))

    @property
    def log_pages(self) -> int:
        return self.file.writer.log_pages()[0]

    async def until_short(self) -> None:
        """Until a checkpoint has been finished, so that the log began anew."""
        with anyio.fail_after(20):
            while True:
                await self.lanes.write(Write(-1))
                if self.log_pages < LONG:
                    return
                await anyio.sleep(0.01)


@pytest.fixture
async def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: object) -> AsyncIterator[Opened]:
    monkeypatch.setattr(database_file, "WAL_PAGES", LONG)
    monkeypatch.setattr(database_file, "_FEW_PAGES", 4)
    monkeypatch.setattr(database_file, "_LOOK_SECONDS", 0)
    gate = Gate()
    opened = Opened(tmp_path / "x.sqlite3", gate)
    yield opened
    opened.lanes.end(5)
    opened.file.close()
    await gate.aclose()


async def test_the_log_stays_short_and_all_is_kept(opened: Opened) -> None:
    longest = 0
    for start in range(0, 1000, 50):
        await opened.write(range(start, start + 50))
        longest = max(longest, opened.log_pages)
    await opened.until_short()
    assert longest < 12 * LONG
    assert log_of(opened.path).stat().st_size < 12 * LONG * 4200
    await opened.lanes.drain()
    opened.lanes.end(5)
    opened.file.close()
    again = Database.open_file(str(opened.path), busy_timeout=5)
    assert again.execute("SELECT count(DISTINCT number) FROM numbers WHERE number >= 0") == [(1000,)]
    assert again.execute("PRAGMA integrity_check") == [("ok",)]
    again.close()


async def test_writers_and_readers_go_on_during_a_checkpoint(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    sync = descriptors.sync

    def slow(name: str) -> None:
        begun.set()
        go_on.wait(20)
        sync(name)

    monkeypatch.setattr(descriptors, "sync", slow)
    await opened.write(range(LONG + 10))
    assert await anyio.to_thread.run_sync(begun.wait, 20)
    await opened.write(range(1000, 1100))
    assert await opened.lanes.read(Count()) == LONG + 110
    assert opened.log_pages > LONG
    go_on.set()
    await opened.until_short()


async def test_a_checkpoint_that_fails_is_told_and_tried_again(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoints, "_PAUSE_SECONDS", 0.05)
    caplog.set_level(logging.WARNING, "specstar")
    failing: list[Any] = []
    checkpoint = Database.checkpoint

    def fails(self: Database) -> None:
        if self is not opened.file.writer and len(failing) < 2:
            failing.append(self)
            raise BackendError("the disk reported an error") from apsw.IOError("disk I/O error")
        checkpoint(self)

    monkeypatch.setattr(Database, "checkpoint", fails)
    await opened.write(range(LONG + 10))
    await opened.until_short()
    assert [record.message for record in caplog.records] == [
        "the write-ahead log could not be brought into the database yet: the disk reported an error"
    ] * 2
    # Each was closed for good, and left to nobody.
    assert failing[0] is not failing[1]
    assert not {id(one) for one in failing} & {id(one) for one in opened.file._opened}


async def test_a_long_search_is_waited_for(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it may still read stays in the log, and nobody tries all the time."""
    tries: list[float] = []
    checkpoint = DatabaseFile.checkpoint

    def counted(self: DatabaseFile) -> None:
        tries.append(time.monotonic())
        checkpoint(self)

    monkeypatch.setattr(DatabaseFile, "checkpoint", counted)
    monkeypatch.setattr(checkpoints, "_BLOCKED_SECONDS", 0.2)
    reader = opened.file._idle[0]
    await opened.write(range(5))
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM numbers") == [(5,)]
    begun = time.monotonic()
    while time.monotonic() - begun < 1:
        await opened.write(range(10))
    assert opened.log_pages > 2 * LONG
    assert 2 <= len(tries) <= 8
    assert reader.execute("SELECT count(*) FROM numbers") == [(5,)]
    reader.execute("COMMIT")
    await opened.until_short()


class Slow:
    def run(self, database: Database) -> None:
        database.execute("SELECT count(*) FROM numbers")
        time.sleep(0.02)


async def test_readers_that_never_pause_together_are_held_back_for_a_moment(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them is always inside, and the log could never begin anew."""
    monkeypatch.setattr(database_file, "_PATIENCE", ((2 * LONG, 5.0),))
    let_in: list[int] = []
    let_readers = DatabaseFile.let_readers

    def counted(self: DatabaseFile) -> None:
        let_in.append(self.writer.log_pages()[0])
        let_readers(self)

    monkeypatch.setattr(DatabaseFile, "let_readers", counted)
    over = threading.Event()
    seen = {"search": threading.Event(), "read": threading.Event()}

    def go_on(name: str) -> None:
        while not over.is_set():
            getattr(opened.file, name)([Slow()])
            seen[name].set()

    readers = [threading.Thread(target=go_on, args=[name]) for name in seen]
    for reader in readers:
        reader.start()
    try:
        await opened.write(range(3 * LONG))
        with anyio.fail_after(20):
            while not let_in:
                await opened.write(range(5))
        await opened.until_short()
        for once_more in seen.values():
            once_more.clear()
            assert await anyio.to_thread.run_sync(once_more.wait, 20)
    finally:
        over.set()
        for reader in readers:
            await anyio.to_thread.run_sync(reader.join)


async def test_closing_in_the_middle_of_a_checkpoint_leaves_nothing_open(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()
    sync = descriptors.sync

    def slow(name: str) -> None:
        begun.set()
        threading.Event().wait(0.3)
        sync(name)

    monkeypatch.setattr(descriptors, "sync", slow)
    await opened.write(range(LONG + 10))
    assert await anyio.to_thread.run_sync(begun.wait, 20)
    await opened.lanes.drain()
    opened.lanes.end(5)
    opened.file.close()
    assert str(opened.path) not in descriptors._files
    assert not log_of(opened.path).exists()
    assert not [where for where in open_files() if where.startswith(str(opened.path))]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("specstar-")]


def log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def open_files() -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(str(entry.readlink()))
    return found


def test_locks_outlive_another_user_of_the_file(tmp_path: Path) -> None:
    """Two of one process: when the first ends, the second's locks still keep other processes from ending the log."""
    path = str(tmp_path / "x.sqlite3")
    one, other = (DatabaseFile(path, readers=1, busy_timeout=5) for _ in range(2))
    one.open()
    other.open()
    for file in (one, other):
        file.checkpoint()
    one.close()
    script = (
        "import apsw, sys; c = apsw.Connection(sys.argv[1]); c.execute('PRAGMA busy_timeout=0');"
        "c.execute('PRAGMA locking_mode=EXCLUSIVE');"
        "print(c.execute('PRAGMA journal_mode=DELETE').fetchall())"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False, timeout=60)
    assert "locked" in done.stderr, done.stdout
    other.close()
    assert path not in descriptors._files
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False, timeout=60)
    assert "delete" in done.stdout, done.stderr
