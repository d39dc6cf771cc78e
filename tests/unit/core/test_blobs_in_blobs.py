"""Sources of blobs that put blobs themselves: those who wait for an inner one hold none of its threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import anyio
import anyio.from_thread
import pytest

from specstar import SpecStar, blob_source
from specstar import sync as blocking
from specstar.roles import BlobInfo

CONFIG = {"meta": {"type": "memory"}}
# As many as read at once: all of them are under way before the first puts an inner one.
CALLERS = blob_source._THREADS


@pytest.mark.anyio
async def test_generators_in_all_threads_may_put_by_from_thread() -> None:
    all_there = threading.Barrier(CALLERS)
    async with SpecStar() as spec:
        spec.configure(backend=CONFIG)

        async def put(level: int, number: int) -> BlobInfo:
            with anyio.fail_after(20):
                return await spec.blobs.put(source(level, number))

        def source(level: int, number: int) -> Iterator[bytes]:
            if level:
                all_there.wait(20)
                yield anyio.from_thread.run(put, level - 1, number).file_id.encode()
            else:
                yield b"%d" % number

        async with anyio.create_task_group() as group:
            for number in range(CALLERS):
                group.start_soon(put, 2, number)


def test_generators_in_all_threads_may_put_by_the_blocking_facade() -> None:
    all_there = threading.Barrier(CALLERS)
    stored: list[BlobInfo] = []
    with blocking.SpecStar() as spec:
        spec.configure(backend=CONFIG)

        def source(level: int, number: int) -> Iterator[bytes]:
            if level:
                all_there.wait(20)
                yield spec.blobs.put(source(level - 1, number)).file_id.encode()
            else:
                yield b"%d" % number

        def put(number: int) -> None:
            stored.append(spec.blobs.put(source(2, number)))

        callers = [threading.Thread(target=put, args=(number,), daemon=True) for number in range(CALLERS)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(30)
        assert len(stored) == CALLERS
