"""Under the shim: run short sequences of operations, each in a folder of its own, and leave a trace of each.

A mark `begin N` stands before, `done N` after the N-th operation of a sequence. In every other sequence the log of the
database is brought into it again and again.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from specstar.backends.sqlite import database_file
from tests.faults.tools.failing_calls import LARGE, SMALL, Note, Store
from tests.faults.tools.file_faults import FileFaults

__all__ = ["OPERATIONS", "blob_of"]

OPERATIONS = ("create small", "create large", "update", "put blob", "delete")


def blob_of(number: int) -> bytes:
    """The blob that the operation with this number puts."""
    return b"blob %d " % number * 20


async def perform(store: Store, operation: str, number: int) -> None:
    if operation == "create small":
        await store.notes.create(Note(SMALL), resource_id=f"r{number}")
    elif operation == "create large":
        await store.notes.create(Note(LARGE), resource_id=f"r{number}")
    elif operation == "update":
        await store.notes.update("base", Note(f"{LARGE}{number}"))
    elif operation == "put blob":
        await store.spec.blobs.put(blob_of(number))
    elif operation == "delete":
        await store.notes.permanently_delete("gone")
        await store.notes.create(Note(SMALL), resource_id="gone")
        await store.notes.delete("gone")
    else:
        raise AssertionError(operation)


async def record(work: Path, name: str, sequence: list[str], *, short_log: bool) -> None:
    database_file.WAL_PAGES = 8 if short_log else 8192
    sandbox = work / name
    sandbox.mkdir()
    faults = FileFaults(sandbox)
    faults.trace(work / f"{name}.trace")
    store = Store(sandbox / "deep" / "root")
    # Those that later operations change; their own beginning is traced as well.
    faults.mark("begin 0")
    await store.notes.create(Note(LARGE), resource_id="base")
    await store.notes.create(Note(LARGE), resource_id="gone")
    faults.mark("done 0")
    for number, operation in enumerate(sequence, 1):
        faults.mark(f"begin {number}")
        await perform(store, operation, number)
        faults.mark(f"done {number}")
        if short_log:
            await asyncio.sleep(0.05)
    faults.trace(None)
    await store.spec.aclose()


async def run(work: Path, sequences: dict[str, list[str]]) -> None:
    database_file._FEW_PAGES, database_file._LOOK_SECONDS = 0, 0.0
    for place, (name, sequence) in enumerate(sequences.items()):
        await record(work, name, sequence, short_log=place % 2 == 1)


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), json.loads(sys.argv[2])))
