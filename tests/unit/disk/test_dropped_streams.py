"""Streams of blobs that nobody leaves: their files must not stay open."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Generator
from pathlib import Path

import anyio

from specstar import SpecStar
from specstar.sync import SpecStar as SyncSpecStar
from tests.faults.tools.leaks import open_files

MIB = 1 << 20


def backend_at(root: Path) -> dict[str, object]:
    return {"blob": {"type": "disk", "options": {"rootdir": str(root)}}}


def opened_under(root: Path) -> list[str]:
    return [path for path in open_files() if path.startswith(str(root))]


async def settled(root: Path) -> None:
    """A thread that reads ahead closes the file when it is done."""
    gc.collect()
    with anyio.fail_after(10):
        while opened_under(root):  # noqa: ASYNC110  nothing tells when a thread is done
            await anyio.sleep(0.01)


async def test_a_stream_that_was_entered_and_dropped(tmp_path: Path) -> None:
    spec = SpecStar()
    spec.configure(backend=backend_at(tmp_path))
    async with spec:
        info = await spec.blobs.put(os.urandom(8 * MIB))
        for _ in range(5):
            stream = spec.blobs.open(info.file_id)
            await stream.__aenter__()
            await stream.__anext__()
            del stream
        await settled(tmp_path)


def test_a_generator_that_is_finalized_on_a_loop(tmp_path: Path) -> None:
    """As web frameworks do: they read it in threads, and drop it on the loop when the client has gone."""
    spec = SyncSpecStar()
    spec.configure(backend=backend_at(tmp_path))
    info = spec.blobs.put(os.urandom(8 * MIB))

    def chunks() -> Generator[bytes]:
        with spec.blobs.open(info.file_id) as stream:
            yield from stream

    async def serve() -> None:
        for _ in range(5):
            generator = chunks()
            await asyncio.to_thread(next, generator)
            generator.close()
        await settled(tmp_path)

    asyncio.run(serve())
    with spec:
        assert len(b"".join(chunks())) == 8 * MIB
