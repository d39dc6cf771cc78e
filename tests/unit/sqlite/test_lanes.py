"""The lanes to a database file: what travels together, and what each caller gets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest

from specstar.backends.sqlite import whereabouts
from specstar.backends.sqlite.database import Database
from specstar.backends.sqlite.database_file import DatabaseFile
from specstar.backends.sqlite.lanes import Lanes
from specstar.errors import BackendError, BackendUnavailable, DuplicateResourceError
from specstar.runtime import Gate


class Write:
    size = 100

    def __init__(self, number: int, error: Exception | None = None) -> None:
        self.number = number
        self.error = error

    def run(self, database: Database) -> int:
        if self.error is not None:
            raise self.error
        database.execute("INSERT INTO numbers VALUES (?)", (self.number,))
        return self.number


class Count:
    def run(self, database: Database) -> int:
        return int(database.execute("SELECT count(*) FROM numbers")[0][0])


class Opened:
    def __init__(self, file: DatabaseFile, lanes: Lanes, gate: Gate) -> None:
        self.file = file
        self.lanes = lanes
        self.gate = gate


@pytest.fixture
async def opened(tmp_path: Path, anyio_backend: object) -> AsyncIterator[Opened]:
    file = DatabaseFile(str(tmp_path / "x.sqlite3"), readers=2, busy_timeout=5)
    file.open()
    with file.writer.transaction():
        file.writer.execute("CREATE TABLE numbers (number INTEGER)")
    gate = Gate()
    lanes = Lanes(gate.settle(), file, batch_bytes=8 << 20)
    yield Opened(file, lanes, gate)
    lanes.end(5)
    file.close()
    await gate.aclose()


async def test_writes_that_are_awaited_together_share_transactions(opened: Opened) -> None:
    commits = 0

    def count(_: Any = None) -> bool:
        nonlocal commits
        commits += 1
        return False

    opened.file.writer.connection.set_commit_hook(count)
    results: dict[int, int] = {}

    async def one(number: int) -> None:
        results[number] = await opened.lanes.write(Write(number))

    async with anyio.create_task_group() as group:
        for number in range(300):
            group.start_soon(one, number)
    assert results == {number: number for number in range(300)}
    assert commits < 20
    assert await opened.lanes.read(Count()) == 300


async def test_many_writes_of_one_caller_answer_one_by_one(opened: Opened) -> None:
    refusal = DuplicateResourceError("x")
    writes = [Write(number, refusal if number % 7 == 3 else None) for number in range(2000)]
    results = await opened.lanes.write_all(writes)
    assert results == [refusal if number % 7 == 3 else number for number in range(2000)]
    assert await opened.lanes.search(Count()) == sum(number % 7 != 3 for number in range(2000))
    assert await opened.lanes.write_all([]) == []


async def test_one_large_caller_and_many_small_ones_share_the_way(opened: Opened) -> None:
    finished: list[str] = []

    async def large() -> None:
        await opened.lanes.write_all([Write(number) for number in range(5000)])
        finished.append("large")

    async def small() -> None:
        await opened.lanes.write(Write(-1))
        finished.append("small")

    async with anyio.create_task_group() as group:
        group.start_soon(large)
        await anyio.lowlevel.checkpoint()
        for _ in range(10):
            group.start_soon(small)
    assert finished[-1] == "large"
    assert await opened.lanes.read(Count()) == 5010


async def test_readers_see_what_was_acknowledged(opened: Opened) -> None:
    for number in range(30):
        await opened.lanes.write(Write(number))
        assert await opened.lanes.read(Count()) == number + 1
        assert await opened.lanes.search(Count()) == number + 1


async def test_readers_cannot_write(opened: Opened) -> None:
    with pytest.raises(Exception, match="read-only"):
        await opened.lanes.read(Write(1))
    assert await opened.lanes.read(Count()) == 0


async def test_a_closed_file_is_unavailable(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    # However long ago somebody looked whether it is there: closing removed its log.
    monkeypatch.setattr(whereabouts, "_LOOK_SECONDS", 0)
    await opened.lanes.drain()
    opened.file.close()
    for call in (opened.lanes.read, opened.lanes.write):
        with pytest.raises(BackendUnavailable):
            await call(Write(1))


async def test_after_an_error_of_the_disk_the_writer_is_opened_anew(opened: Opened) -> None:
    broken = opened.file.writer
    with pytest.raises(BackendError, match="read-only"):
        await opened.lanes.write(Write(1, apsw.ReadOnlyError("the log could be opened only for reading")))
    assert await opened.lanes.write(Write(2)) == 2
    assert opened.file.writer is not broken
    with pytest.raises(BackendUnavailable):
        broken.read([Count()])
    kept = opened.file.writer
    with pytest.raises(DuplicateResourceError):
        await opened.lanes.write(Write(3, DuplicateResourceError("x")))
    assert await opened.lanes.write(Write(4)) == 4
    assert opened.file.writer is kept
    assert await opened.lanes.read(Count()) == 2


async def test_a_transaction_carries_no_more_than_batch_bytes(tmp_path: Path, anyio_backend: object) -> None:
    file = DatabaseFile(str(tmp_path / "x.sqlite3"), readers=1, busy_timeout=5)
    file.open()
    with file.writer.transaction():
        file.writer.execute("CREATE TABLE numbers (number INTEGER)")
    gate = Gate()
    lanes = Lanes(gate.settle(), file, batch_bytes=1000)
    transactions: list[int] = []

    def count(_: Any = None) -> bool:
        transactions.append(file.writer.connection.total_changes())
        return False

    file.writer.connection.set_commit_hook(count)
    begun = file.writer.connection.total_changes()
    huge = Write(100)
    huge.size = 5000
    async with anyio.create_task_group() as group:
        for write in (*(Write(number) for number in range(50)), huge, *(Write(number) for number in range(50, 75))):
            group.start_soon(lanes.write, write)
    # A caller who writes many takes half of each.
    assert await lanes.write_all([Write(number) for number in range(200, 220)]) == list(range(200, 220))
    written = [after - before for before, after in zip([begun, *transactions], transactions, strict=False)]
    assert sum(written) == 96
    assert max(written) == 10
    assert 1 in written
    assert written[-4:] == [5, 5, 5, 5]
    lanes.end(5)
    file.close()
    await gate.aclose()
