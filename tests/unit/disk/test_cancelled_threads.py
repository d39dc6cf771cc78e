"""Callers on asyncio that are cancelled by `Task.cancel()` while a thread works for them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from specstar import SpecStar
from specstar.backends.disk.blob_files import BlobFiles
from specstar.backends.disk.blob_trailer import BlobFile
from specstar.backends.disk.new_blob import NewBlob
from specstar.backends.sqlite import descriptors
from specstar.backends.sqlite.database import Database, Operation
from specstar.backends.sqlite.database_file import DatabaseFile


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def spec(tmp_path: Path) -> AsyncIterator[SpecStar]:
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path)}}
    spec = SpecStar()
    spec.configure(backend={"meta": disk, "resource": disk, "blob": disk})
    async with spec:
        yield spec


class Thing(msgspec.Struct):
    name: str = ""


class Slow:
    """Makes a function of a thread wait until it is told to go on."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.begun.set()
        assert self.go_on.wait(10)

    async def cancel(self, task: asyncio.Task[object]) -> None:
        """Cancel while the thread is at work; it goes on a moment later."""
        while not self.begun.is_set():  # noqa: ASYNC110  another thread sets it
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.sleep(0.02)
        self.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_blob_that_a_thread_opened_is_closed(spec: SpecStar, monkeypatch: pytest.MonkeyPatch) -> None:
    info = await spec.blobs.put(b"bytes")
    slow, opened = Slow(), list[int]()
    open_file = BlobFiles.open

    def slowly(files: BlobFiles, file_id: str) -> BlobFile:
        slow.wait()
        file = open_file(files, file_id)
        opened.append(file.descriptor)
        return file

    monkeypatch.setattr(BlobFiles, "open", slowly)
    await slow.cancel(asyncio.create_task(spec.blobs.get(info.file_id)))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


@pytest.mark.parametrize("used_again", [True, False])
async def test_a_database_that_a_thread_opened_is_used_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used_again: bool
) -> None:
    slow, closed = Slow(), list[str]()
    opened, close = DatabaseFile.open, Database.close

    def slowly(file: DatabaseFile) -> None:
        slow.wait()
        opened(file)

    def closing(database: Database, *, fold: bool = True) -> None:
        closed.append(database.name)
        close(database, fold=fold)

    monkeypatch.setattr(DatabaseFile, "open", slowly)
    monkeypatch.setattr(Database, "close", closing)
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path), "reader_threads": 2}}
    spec = SpecStar()
    spec.configure(backend={"meta": disk, "resource": disk})
    things = spec.add_model(Thing)
    async with spec:
        await slow.cancel(asyncio.create_task(things.exists("x")))
        if used_again:
            await things.create(Thing(), resource_id="x")
    # A writer, a reader, and the searchers: each once.
    assert len(closed) == 4
    assert not [name for name in descriptors._files if name.startswith(str(tmp_path))]


async def test_an_upload_is_not_dropped_under_the_thread_that_writes_it(
    spec: SpecStar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its descriptor may belong to another upload by then."""
    await spec.blobs.put(b"bytes")
    slow, events = Slow(), list[str]()
    write, drop = NewBlob.write, NewBlob.drop

    def slowly(new: NewBlob, data: bytes | bytearray | memoryview) -> None:
        slow.wait()
        write(new, data)
        events.append("written")

    def dropped(new: NewBlob) -> None:
        events.append("dropped")
        drop(new)

    monkeypatch.setattr(NewBlob, "write", slowly)
    monkeypatch.setattr(NewBlob, "drop", dropped)
    await slow.cancel(asyncio.create_task(spec.blobs.put(iter([bytes(300_000)]))))
    assert events == ["written", "dropped"]
    assert not [path for path in (tmp_path / "_blobs" / "_tmp").rglob("*") if path.is_file()]


async def test_a_blob_is_closed_though_its_reader_is_cancelled_while_the_closing_is_on_its_way(
    spec: SpecStar, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = await spec.blobs.put(b"bytes")
    opened, home, go_on = list[int](), asyncio.get_running_loop(), threading.Event()
    open_file = BlobFiles.open

    def open_and_note(files: BlobFiles, file_id: str) -> BlobFile:
        file = open_file(files, file_id)
        opened.append(file.descriptor)
        return file

    monkeypatch.setattr(BlobFiles, "open", open_and_note)

    async def read() -> None:
        async with spec.blobs.open(info.file_id):
            # The home loop does not come to the closing before the cancellation.
            home.call_soon_threadsafe(go_on.wait, 10)

    async def cancelled_at_the_end() -> None:
        task = asyncio.create_task(read())
        while not opened:  # noqa: ASYNC110  a thread sets it
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    await asyncio.to_thread(lambda: asyncio.run(cancelled_at_the_end()))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


async def test_a_read_that_is_cancelled_again_and_again_waits_for_its_thread(
    spec: SpecStar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch goes on for its neighbours; closing waits for the thread, which uses the connection."""
    before = set(threading.enumerate())
    notes = spec.add_model(dict, name="notes")
    info = await notes.create({"a": 1})
    slow, read = Slow(), Database.read

    def slowly(database: Database, operations: Sequence[Operation]) -> list[object]:
        slow.wait()
        return read(database, operations)

    monkeypatch.setattr(Database, "read", slowly)
    neighbour = asyncio.create_task(notes.get(info.resource_id))
    await slow.cancel(asyncio.create_task(notes.get(info.resource_id)))
    assert (await neighbour).data == {"a": 1}
    await spec.aclose()
    left = set(threading.enumerate()) - before
    assert not [thread.name for thread in left if thread.name in ("specstar-reader", "specstar-writer")]
