"""Eight processes write one metadata object of a real server at once: no increment is lost, none is made twice."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import pytest

from services import S3Endpoint
from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.managed_load import Entry
from tests.faults.tools.s3_counter import COUNTER, CREATORS
from tests.faults.tools.s3_program import Program, program, s3_backend
from tests.faults.tools.stores import bucket_keys

pytestmark = pytest.mark.timeout(1800)

ROOT = Path(__file__).parents[2]
PROCESSES = 8
FILLER = "filler "


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def test_eight_processes_on_one_object(s3: S3Endpoint, s3_bucket: str, figures: Figures) -> None:
    figures.name = f"S3: conflict storm of {PROCESSES} processes"
    steps = fault_count(2, share=0.1)
    # Half of them replay their writes after a conflict, half are told of it.
    backends = [
        s3_backend(s3.endpoint_url, s3_bucket, s3, auto_reload_on_conflict=reload, operation_timeout_seconds=60.0)
        for reload in (True, False)
    ]
    async with program(backends[0]) as look:
        await look.users.create(Entry(0, COUNTER), resource_id=COUNTER)
        # Large enough that a push sends what changed.
        assert len(await look.users.create_many([Entry(0, f"{FILLER}{number}") for number in range(400)])) == 400
        assert any(".base/" in key for key in bucket_keys(s3, s3_bucket, "meta/"))
        writers = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.faults.tools.s3_counter"),
                *(json.dumps(backends[number % 2]), str(number), str(steps)),
                stdout=asyncio.subprocess.PIPE,
                cwd=ROOT,
            )
            for number in range(PROCESSES)
        ]
        try:
            ends = [
                end for told in await asyncio.gather(*(listen(writer, figures) for writer in writers)) for end in told
            ]
            assert [await writer.wait() for writer in writers] == [0] * PROCESSES
        finally:
            for writer in writers:
                if writer.returncode is None:
                    writer.kill()
                    await writer.wait()
        await check(look, ends, figures, steps)


async def listen(writer: asyncio.subprocess.Process, figures: Figures) -> list[tuple[str, str]]:
    """What one process was told, timed: a process that waits for ever for its turn shows as a long stall."""
    ends: list[tuple[str, str]] = []
    assert writer.stdout is not None
    last: float | None = None
    while line := (await writer.stdout.readline()).decode().split():
        now = time.monotonic()
        if last is not None:
            figures.longest_stall = max(figures.longest_stall, now - last)
        last = now
        ends.append((line[0], line[1]))
    return ends


async def check(look: Program, ends: list[tuple[str, str]], figures: Figures, steps: int) -> None:
    assert len(ends) == PROCESSES * steps * (1 + CREATORS)
    told = {op for end, op in ends if end == "+"}
    maybe = {op for end, op in ends if end == "?"}
    figures.faults += len(ends)
    figures.acknowledged += len(told)
    made: list[str] = []
    for revision in (await look.users.list_revisions(COUNTER))[1:]:
        made.append((await look.users.get(COUNTER, revision_id=revision.revision_id)).data.op)
    counter = (await look.users.get(COUNTER)).data.caller
    rows = {row.data.op async for row in look.users.iter() if not row.data.op.startswith(FILLER)}
    rows.discard((await look.users.get(COUNTER)).data.op)
    there = set(made) | rows
    figures.lost += len(told - there)
    figures.duplicated += len(made) - len(set(made))
    assert told <= there, f"acknowledged and gone: {sorted(told - there)[:5]}"
    assert there <= told | maybe, f"there, and nobody was told: {sorted(there - told - maybe)[:5]}"
    assert len(made) == len(set(made)) == counter, f"{counter} counted in {len(made)} revisions of {len(set(made))} ops"
