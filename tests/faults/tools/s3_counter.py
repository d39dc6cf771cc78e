"""A process of the conflict storm: increments one counter and creates rows of its own, and says what was acknowledged.

Run with: the binding as JSON, its number, how many steps. Prints a line for each end: `+` acknowledged, `?` unknown, `-`
refused; then the op.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable

from specstar.errors import BackendUnavailable, OutcomeUnknownError, RevisionConflictError
from tests.faults.tools.managed_load import Entry
from tests.faults.tools.s3_program import program

__all__ = ["COUNTER", "CREATORS"]

COUNTER = "counter"
CREATORS = 2


async def main() -> None:
    backend, number, steps = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    async with program(backend) as one:

        async def increment(op: str) -> None:
            found = await one.users.get(COUNTER)
            # What is built upon must be what is replaced: else somebody's increment would be lost.
            after = Entry(found.data.caller + 1, op)
            await one.users.update(COUNTER, after, expected_revision_id=found.info.revision_id)

        async def create(op: str) -> None:
            await one.users.create(Entry(number, op), resource_id=op)

        async def steps_of(name: str, write: Callable[[str], Awaitable[None]]) -> None:
            for step in range(steps):
                await until_ended(f"{number}-{name}-{step}", write)

        async with asyncio.TaskGroup() as group:
            group.create_task(steps_of("inc", increment))
            for part in range(CREATORS):
                group.create_task(steps_of(f"new-{part}", create))


async def until_ended(op: str, write: Callable[[str], Awaitable[None]]) -> None:
    while True:
        try:
            await write(op)
        except OutcomeUnknownError:
            return say("?", op)
        except (RevisionConflictError, BackendUnavailable):
            continue
        return say("+", op)


def say(end: str, op: str) -> None:
    sys.stdout.write(f"{end} {op}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
