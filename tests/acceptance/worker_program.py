"""A program with jobs, for worker processes: what it does is told by environment variables and by the payloads."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

from msgspec import Struct

from specstar import Job, SpecStar

spec = SpecStar()
spec.configure(backend=json.loads(os.environ["SPECSTAR_TEST_BACKEND"]))
FOLDER = Path(os.environ["SPECSTAR_TEST_FOLDER"])


class Work(Struct):
    """What to do: sleep for `seconds`, or die at the attempts up to `kills`."""

    number: int = 0
    seconds: float = 0
    kills: int = 0


def note(word: str, job: Job[Work]) -> None:
    """Leave a line that survives this process."""
    line = f"{word} {job.payload.number} {job.attempts} {os.getpid()} {time.time()}\n"
    with (FOLDER / "notes").open("a") as notes:
        notes.write(line)


@spec.job(max_retries=2)
async def work(job: Job[Work]) -> int:
    """Note the beginning and the end."""
    note("begin", job)
    if job.attempts <= job.payload.kills:
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(job.payload.seconds)
    note("end", job)
    return job.payload.number


@spec.job(max_retries=2, keep_state=False)
async def stateless(job: Job[Work]) -> None:
    """The same without state."""
    await work.handler(job)


@spec.job
def blocking(job: Job[Work]) -> None:
    """A plain function that blocks its thread."""
    note("begin", job)
    time.sleep(job.payload.seconds)
    note("end", job)
