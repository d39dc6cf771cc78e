"""The network to PostgreSQL breaks in every way while managers write: bounded errors, and the truth about each write."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.managed_load import ManagedLoad
from tests.faults.tools.postgres_program import CALL_LIMIT, program
from tests.faults.tools.tcp_proxy import TcpProxy

pytestmark = pytest.mark.timeout(1800)

Break = Callable[[TcpProxy, ManagedLoad], Awaitable[None]]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def cut(proxy: TcpProxy, load: ManagedLoad) -> None:
    await proxy.cut()


async def shut(proxy: TcpProxy, load: ManagedLoad) -> None:
    """Nothing listens for a while."""
    await proxy.shut()
    await proxy.cut()
    await asyncio.sleep(load.chance.uniform(0, 1.5))
    await proxy.listen()


async def reset_new_ones(proxy: TcpProxy, load: ManagedLoad) -> None:
    proxy.refuses = True
    await proxy.cut()
    await asyncio.sleep(load.chance.uniform(0, 1))
    proxy.heal()


async def stall(proxy: TcpProxy, load: ManagedLoad) -> None:
    """All stands still, then goes on: statements that were refused meanwhile still arrive, and must not be made."""
    proxy.hold()
    await asyncio.sleep(load.chance.choice([0.3, 2.5]))
    proxy.heal()


async def stall_requests(proxy: TcpProxy, load: ManagedLoad) -> None:
    """The same, and what is held back arrives only after the connections are given up."""
    late = proxy.requests.flowing
    late.clear()
    await asyncio.sleep(2.2)
    proxy.requests.flowing = asyncio.Event()
    proxy.requests.flowing.set()
    await load.progress(CALL_LIMIT)
    late.set()


async def black_hole(proxy: TcpProxy, load: ManagedLoad) -> None:
    proxy.swallow()
    await asyncio.sleep(load.chance.uniform(0.1, 2.5))
    await proxy.cut()
    proxy.heal()


async def lose_answers(proxy: TcpProxy, load: ManagedLoad) -> None:
    """Statements arrive and are made; what the server says of them does not come back."""
    proxy.answers.dropping = True
    async with asyncio.timeout(10):
        await proxy.answers.dropped.wait()
    await asyncio.sleep(load.chance.choice([0, 0.05]))
    await proxy.cut()
    proxy.heal()


async def lose_answers_for_good(proxy: TcpProxy, load: ManagedLoad) -> None:
    """Nobody can be asked for longer than finding out may take: the only honest answer is that it is not known."""
    before = len(load.unknown)
    proxy.answers.dropping = True
    async with asyncio.timeout(10):
        await proxy.answers.dropped.wait()
    # The first may have been the answer to a read: soon every connection waits for one, those that write too.
    await asyncio.sleep(0.3)
    proxy.refuses = True
    await proxy.cut()
    async with asyncio.timeout(CALL_LIMIT):
        while len(load.unknown) == before:  # noqa: ASYNC110  counted by others
            await asyncio.sleep(0.01)
    proxy.heal()


async def cut_answers_short(proxy: TcpProxy, load: ManagedLoad) -> None:
    proxy.answers.budget = load.chance.randrange(1, 2000)
    await asyncio.sleep(0.2)
    proxy.heal()


async def cut_requests_short(proxy: TcpProxy, load: ManagedLoad) -> None:
    proxy.requests.budget = load.chance.randrange(1, 5000)
    await asyncio.sleep(0.2)
    proxy.heal()


async def slow_down(proxy: TcpProxy, load: ManagedLoad) -> None:
    proxy.requests.delay = proxy.answers.delay = 0.05
    await asyncio.sleep(0.3)
    proxy.heal()


BREAKS: list[Break] = [
    lose_answers,
    stall,
    cut,
    black_hole,
    cut_answers_short,
    lose_answers_for_good,
    cut_requests_short,
    reset_new_ones,
    stall_requests,
    shut,
    slow_down,
]


async def test_the_network_breaks_under_load(postgres_database: str, figures: Figures) -> None:
    figures.name = "PostgreSQL: network cut, stalled, silent, one-sided"
    async with (
        TcpProxy.before(postgres_database) as proxy,
        program(proxy.url_of(postgres_database)) as users,
        program(postgres_database) as near,
    ):
        load = ManagedLoad([users], figures, limit=CALL_LIMIT)
        async with load.running():
            await load.progress(10)
            ways: list[Break] = []
            for _ in range(fault_count(4, share=0.5)):
                ways = ways or load.chance.sample(BREAKS, len(BREAKS))
                await ways.pop()(proxy, load)
                figures.faults += 1
                await load.progress(CALL_LIMIT)
        await load.verify(near)
        await load.verify(users)
