"""The network to S3 breaks, also in the middle of bodies, while managers and blobs are written and read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from services import S3Endpoint
from specstar.errors import BackendError
from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.managed_load import ManagedLoad
from tests.faults.tools.s3_program import CALL_LIMIT, Program, program, s3_backend
from tests.faults.tools.tcp_proxy import TcpProxy

pytestmark = pytest.mark.timeout(1800)

Break = Callable[[TcpProxy, ManagedLoad], Awaitable[None]]
MIB = 1 << 20


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def cut(proxy: TcpProxy, load: ManagedLoad) -> None:
    await proxy.cut()


async def reset_in_a_body_sent(proxy: TcpProxy, load: ManagedLoad) -> None:
    proxy.requests.budget = load.chance.randrange(1, 200_000)
    await asyncio.sleep(0.3)


async def truncate_a_body_received(proxy: TcpProxy, load: ManagedLoad) -> None:
    proxy.answers.budget = load.chance.randrange(1, 200_000)
    await asyncio.sleep(0.3)


async def stall(proxy: TcpProxy, load: ManagedLoad) -> None:
    """Requests that were given up arrive after all, when the connections move again."""
    proxy.hold()
    await asyncio.sleep(load.chance.choice([0.3, 2.0]))


async def lose_answers(proxy: TcpProxy, load: ManagedLoad) -> None:
    """Pushes and payloads arrive, and nobody is told."""
    proxy.answers.dropping = True
    async with asyncio.timeout(10):
        await proxy.answers.dropped.wait()
    await asyncio.sleep(load.chance.choice([0, 0.1, 2.0]))
    await proxy.cut()


async def black_hole(proxy: TcpProxy, load: ManagedLoad) -> None:
    proxy.swallow()
    await asyncio.sleep(load.chance.uniform(0.1, 2))
    await proxy.cut()


async def shut(proxy: TcpProxy, load: ManagedLoad) -> None:
    await proxy.shut()
    await proxy.cut()
    await asyncio.sleep(load.chance.uniform(0, 1))
    await proxy.listen()


BREAKS: list[Break] = [
    cut,
    reset_in_a_body_sent,
    truncate_a_body_received,
    stall,
    lose_answers,
    black_hole,
    shut,
]


class BlobLoad:
    """Blobs of all sizes: what was acknowledged is there, whole, and no read ever gives other bytes."""

    def __init__(self, load: ManagedLoad, program: Program) -> None:
        self.load = load
        self.blobs = program.blobs
        self.stored: dict[str, bytes] = {}
        self.stopped = False

    async def run(self) -> None:
        while not self.stopped:
            data = self.load.chance.randbytes(self.load.chance.choice([1000, 300_000, 6 * MIB]))
            try:
                with self.load.timed():
                    info = await self.blobs.put(data)
                self.stored[info.file_id] = data
                self.load.figures.acknowledged += 1
                with self.load.timed():
                    found = await self.blobs.get(self.load.chance.choice(list(self.stored)))
                if found not in self.stored.values():
                    self.load.strange.append("a read gave bytes that were never stored")
            except BackendError as error:
                self.load.refusals[f"blob: {type(error).__name__}"] += 1
            await asyncio.sleep(0.05)

    async def verify(self, late: Program) -> None:
        for file_id, data in self.stored.items():
            assert await late.blobs.get(file_id) == data


async def test_the_network_breaks_under_load(s3: S3Endpoint, s3_bucket: str, figures: Figures) -> None:
    figures.name = "S3: network cut in bodies, stalled, silent, one-sided"
    small_parts = {"multipart_threshold_bytes": 5 * MIB, "part_size_bytes": 5 * MIB}
    async with (
        TcpProxy.before(s3.endpoint_url) as proxy,
        program(s3_backend(proxy.url_of(s3.endpoint_url), s3_bucket, s3, **small_parts)) as writer,
        program(s3_backend(s3.endpoint_url, s3_bucket, s3)) as late,
    ):
        load = ManagedLoad([writer.users], figures, limit=CALL_LIMIT, pause=0.1, callers=24)
        blobs = BlobLoad(load, writer)
        async with asyncio.TaskGroup() as group, load.running():
            await load.progress(CALL_LIMIT)
            group.create_task(blobs.run())
            ways: list[Break] = []
            for _ in range(fault_count(3, share=0.4)):
                ways = ways or load.chance.sample(BREAKS, len(BREAKS))
                await ways.pop()(proxy, load)
                proxy.heal()
                figures.faults += 1
                await load.progress(CALL_LIMIT)
            blobs.stopped = True
        await load.verify(late.users)
        await blobs.verify(late)
    assert blobs.stored
