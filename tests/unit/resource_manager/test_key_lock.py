from __future__ import annotations

import asyncio
import random

import anyio
import pytest

from specstar.resource_manager.key_lock import KeyLock
from specstar.runtime.crossing import home_of_caller


async def test_turns_are_taken_in_order_and_keys_are_independent() -> None:
    lock = KeyLock(home_of_caller())
    order: list[int] = []

    async def work(number: int) -> None:
        await lock.acquire("a")
        try:
            await anyio.sleep(0)
            order.append(number)
        finally:
            lock.release("a")

    await lock.acquire("b")
    async with anyio.create_task_group() as group:
        for number in range(10):
            group.start_soon(work, number)
    assert sorted(order) == list(range(10))
    lock.release("b")
    assert not lock._queues


@pytest.mark.parametrize("seed", range(20))
async def test_holders_that_are_cancelled_at_any_moment_neither_lose_nor_share_the_lock(seed: int) -> None:
    lock = KeyLock(home_of_caller())
    dice = random.Random(seed)
    inside = most = 0

    async def work(scope: anyio.CancelScope) -> None:
        nonlocal inside, most
        with scope:
            await lock.acquire("a")
            try:
                inside += 1
                most = max(most, inside)
                for _ in range(dice.randrange(3)):
                    await anyio.sleep(0)
            finally:
                inside -= 1
                lock.release("a")

    async def cancel(scopes: list[anyio.CancelScope]) -> None:
        for scope in scopes:
            for _ in range(dice.randrange(3)):
                await anyio.sleep(0)
            if dice.random() < 0.5:
                scope.cancel()

    scopes = [anyio.CancelScope() for _ in range(30)]
    async with anyio.create_task_group() as group:
        for scope in scopes:
            group.start_soon(work, scope)
        group.start_soon(cancel, scopes)
    assert most == 1
    assert not lock._queues
    assert not lock._given


def test_a_waiter_cancelled_in_the_turn_of_the_release_does_not_release_again() -> None:
    async def main() -> None:
        lock = KeyLock(home_of_caller())
        await lock.acquire("a")
        waiting = asyncio.create_task(lock.acquire("a"))
        await asyncio.sleep(0)
        waiting.cancel()
        lock.release("a")
        await lock.acquire("a")
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert "a" in lock._queues, "the one who was cancelled released the lock of another"

    asyncio.run(main())
