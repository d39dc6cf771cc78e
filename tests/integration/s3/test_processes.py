"""Several processes on one metadata object of a real server: what was acknowledged stays."""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

import msgspec
import pytest

from specstar.backends.s3 import S3Options
from tests.integration.s3.conftest import Options
from tests.unit.s3.rig import opened, until

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("SPECSTAR_FAULT_KILLS", "4"))


async def start(options: S3Options, name: str, count: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.integration.s3.writer_process",
        msgspec.json.encode(options).decode(),
        name,
        str(count),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )


async def acknowledged(process: asyncio.subprocess.Process, into: set[str]) -> None:
    assert process.stdout is not None
    while line := await process.stdout.readline():
        if line.endswith(b"\n"):
            into.add(line.decode().strip())


async def stored(options: S3Options, ids: set[str]) -> set[str]:
    async with opened(options) as rig:
        return {row.resource_id for row in await rig.meta().get_many(sorted(ids)) if row is not None}


@pytest.mark.parametrize("reload", [True, False])
async def test_processes_that_write_at_once_lose_nothing(options: Options, reload: bool) -> None:
    shared = options(auto_reload_on_conflict=reload)
    writers = [await start(shared, f"w{number}", 40) for number in range(3)]
    told: set[str] = set()
    async with asyncio.timeout(120):
        await asyncio.gather(*(acknowledged(writer, told) for writer in writers))
        codes = [await writer.wait() for writer in writers]
    assert codes == [0, 0, 0]
    assert len(told) == 120
    assert await stored(shared, told) == told


async def test_a_killed_writer_leaves_what_it_acknowledged(options: Options) -> None:
    shared = options(auto_reload_on_conflict=True)
    told: set[str] = set()
    steady = await start(shared, "steady", 100_000)
    steady_reader = asyncio.create_task(acknowledged(steady, told))
    try:
        for number in range(KILLS):
            victim = await start(shared, f"victim{number}", 100_000)
            reader = asyncio.create_task(acknowledged(victim, told))
            begun = len(told)
            mine = f"victim{number}-"
            await until(
                lambda mine=mine, begun=begun: any(name.startswith(mine) for name in told) and len(told) >= begun + 20,  # type: ignore[misc]
                seconds=60,
            )
            await asyncio.sleep(random.uniform(0, 0.2))
            victim.kill()
            await victim.wait()
            await reader
    finally:
        steady.kill()
        await steady.wait()
        await steady_reader
    assert await stored(shared, told) == told
