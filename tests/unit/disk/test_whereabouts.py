"""A database whose files are taken away under a running program, and the backup that the documentation describes."""

from __future__ import annotations

import contextlib
import functools
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import msgspec
import pytest

from specstar import SpecStar
from specstar.errors import BackendError, OutcomeUnknownError, SpecstarError


class Note(msgspec.Struct):
    text: str


LARGE = Note("x" * 100_000)
OPEN_AND_CLOSE = """
import sqlite3, sys

connection = sqlite3.connect(sys.argv[1])
connection.execute("SELECT * FROM sqlite_schema").fetchall()
connection.close()
"""
VACUUM = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('VACUUM INTO ?', (sys.argv[2],))"


def spec_at(root: Path) -> SpecStar:
    spec = SpecStar()
    spec.add_model(Note)
    disk = {"type": "disk", "options": {"rootdir": str(root)}}
    spec.configure(backend={"meta": disk, "resource": disk, "blob": disk})
    return spec


def remove(root: Path) -> None:
    shutil.rmtree(root)


def move(root: Path) -> None:
    root.rename(root.with_name("moved"))


def replace(root: Path) -> None:
    move(root)
    shutil.copytree(root.with_name("moved"), root)


def remove_the_log(root: Path) -> None:
    """As SQLite in another process does when this one has no locks any more: reading the file takes them away."""
    (root / "specstar.sqlite3").read_bytes()
    subprocess.run([sys.executable, "-c", OPEN_AND_CLOSE, str(root / "specstar.sqlite3")], check=True)
    assert not (root / "specstar.sqlite3-wal").exists()


@pytest.mark.parametrize("how", [remove, move, replace, remove_the_log])
@pytest.mark.parametrize("first", ["write", "read"])
async def test_nothing_is_acknowledged_into_files_that_are_gone(
    tmp_path: Path, how: Callable[[Path], None], first: str
) -> None:
    root = tmp_path / "root"
    spec = spec_at(root)
    notes = spec.get_resource_manager(Note)
    before = (await notes.create(Note("before"))).resource_id
    how(root)
    acknowledged = []
    refused: list[SpecstarError] = []

    async def write() -> None:
        for _ in range(20):
            try:
                acknowledged.append((await notes.create(Note("after"))).resource_id)
            except (BackendError, OutcomeUnknownError) as error:
                refused.append(error)

    if first == "write":
        await write()
    else:
        with anyio.fail_after(10):  # seen now and then
            while not refused:
                try:
                    await notes.get(before)
                except BackendError as error:
                    refused.append(error)
    for read in (functools.partial(notes.get, before), notes.count, notes.search):
        with pytest.raises(BackendError, match="removed, moved or replaced"):
            await read()
    await write()
    assert len(refused) >= 20
    await spec.aclose()

    again = spec_at(root)
    found = [note.resource_id for note in await again.get_resource_manager(Note).search()]
    assert set(acknowledged) <= set(found)
    assert (before in found) == (how in (replace, remove_the_log))
    await again.aclose()
    if (root.with_name("moved")).exists():
        moved = spec_at(root.with_name("moved"))
        assert before in [note.resource_id for note in await moved.get_resource_manager(Note).search()]
        await moved.aclose()


async def test_the_spec_goes_on_with_what_is_there_once_it_was_closed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    spec = spec_at(root)
    await spec.get_resource_manager(Note).create(Note("before"))
    shutil.rmtree(root)
    with pytest.raises((BackendError, OutcomeUnknownError)):
        await spec.get_resource_manager(Note).create(Note("lost"))
    assert any(not report.ok for report in await spec.check())
    await spec.aclose()
    made = await spec.get_resource_manager(Note).create(Note("after"))
    assert [note.resource_id for note in await spec.get_resource_manager(Note).search()] == [made.resource_id]
    await spec.aclose()


async def test_a_backup_of_a_running_program_can_be_restored(tmp_path: Path) -> None:
    root, copy = tmp_path / "root", tmp_path / "copy"
    spec = spec_at(root)
    notes = spec.get_resource_manager(Note)
    kept = [(await notes.create(note)).resource_id for note in (Note("small"), LARGE)]
    blob = await spec.blobs.put(b"blob" * 100_000)
    copy.mkdir()
    vacuum = [sys.executable, "-c", VACUUM, str(root / "specstar.sqlite3"), str(copy / "specstar.sqlite3")]
    await anyio.run_process(vacuum)
    await notes.create(Note("later"))
    for folder in ("_payloads", "_blobs"):
        shutil.copytree(root / folder, copy / folder)
    await spec.aclose()

    shutil.rmtree(root)
    copy.rename(root)
    restored = spec_at(root)
    found = await restored.get_resource_manager(Note).get_many(kept)
    assert [None if each is None else each.data for each in found] == [Note("small"), LARGE]
    assert await restored.get_resource_manager(Note).count() == 2
    assert (await restored.blobs.stat(blob.file_id)).size == blob.size
    await restored.aclose()
    with contextlib.closing(sqlite3.connect(root / "specstar.sqlite3")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
