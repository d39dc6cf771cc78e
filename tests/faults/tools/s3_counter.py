"""A process of the conflict storm: increments one counter and creates rows of its own, and says what was acknowledged.

Run with: the binding as JSON, its number, how many steps. Prints a line for each end: `+` acknowledged, `?` unknown, `-`
refused; then the op.
"""

from __future__ import annotations

import asyncio
import json
import sys

from specstar.errors import BackendUnavailable, OutcomeUnknownError, RevisionConflictError
from tests.faults.tools.managed_load import Entry
from tests.faults.tools.s3_program import program

__all__ = ["COUNTER", "CREATORS"]

COUNTER = "counter"
CREATORS = 2


async def main() -> None:
    backend, number, steps = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    async with program(backend) as one:

        async def increment() -> None:
            for step in range(steps):
                op = f"{number}-inc-{step}"
                while True:
                    try:
                        found = await one.users.get(COUNTER)
                        # What is built upon must be what is replaced: else somebody's increment would be lost.
                        after = Entry(found.data.caller + 1, op)
                        await one.users.update(COUNTER, after, expected_revision_id=found.info.revision_id)
                        say("+", op)
                        break
                    except OutcomeUnknownError:
                        say("?", op)
                        break
                    except (RevisionConflictError, BackendUnavailable):
                        continue

        async def create(part: int) -> None:
            for step in range(steps):
                op = f"{number}-new-{part}-{step}"
                while True:
                    try:
                        await one.users.create(Entry(number, op), resource_id=op)
                        say("+", op)
                        break
                    except OutcomeUnknownError:
                        say("?", op)
                        break
                    except (RevisionConflictError, BackendUnavailable):
                        continue

        async with asyncio.TaskGroup() as group:
            group.create_task(increment())
            for part in range(CREATORS):
                group.create_task(create(part))


def say(end: str, op: str) -> None:
    sys.stdout.write(f"{end} {op}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
