"""A process that writes metadata until it is told to stop, or killed, and says of each write that it was acknowledged.

Run with: the options as JSON, a name for its ids, and how many writes. Prints a line for each acknowledged write.
"""

from __future__ import annotations

import asyncio
import json
import sys

import msgspec

from specstar.backends.s3 import S3Options
from specstar.errors import BackendUnavailable, RevisionConflictError
from tests.conformance.samples import created
from tests.unit.s3.rig import opened


async def main() -> None:
    options = msgspec.convert(json.loads(sys.argv[1]), S3Options)
    name, count = sys.argv[2], int(sys.argv[3])
    numbers = iter(range(count))
    async with opened(options) as rig:
        store = rig.meta()

        async def write() -> None:
            for number in numbers:
                resource_id = f"{name}-{number}"
                while True:
                    try:
                        await store.write(created(resource_id, name=name))
                    except (RevisionConflictError, BackendUnavailable):
                        # Nothing was stored: again.
                        await asyncio.sleep(0.01)
                    else:
                        break
                sys.stdout.write(f"{resource_id}\n")
                sys.stdout.flush()

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(write())


asyncio.run(main())
