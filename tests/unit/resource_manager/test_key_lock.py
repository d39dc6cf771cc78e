from __future__ import annotations

import asyncio
import random

import anyio
import pytest

from specstar.errors import BackendUnavailable
from specstar.resource_manager.key_lock import KeyLock
from specstar.runtime.crossing import home_of_caller


async def test_turns_are_taken_in_order_and_keys_are_independent() -> None:
    lock = KeyLock(home_of_caller(), name="User")
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
    lock = KeyLock(home_of_caller(), name="User")
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
        lock = KeyLock(home_of_caller(), name="User")
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


async def test_who_has_waited_too_long_is_refused_when_it_would_be_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    home = home_of_caller()
    now = [0.0]
    monkeypatch.setattr(home, "time", lambda: now[0])
    lock = KeyLock(home, name="User", max_wait=60)
    ends: dict[str, str] = {}

    async def work(name: str) -> None:
        try:
            await lock.acquire("a")
        except BackendUnavailable as error:
            ends[name] = str(error)
            return
        ends[name] = "had it"
        lock.release("a")

    await lock.acquire("a")
    async with anyio.create_task_group() as group:
        for name in ("early", "too"):
            group.start_soon(work, name)
        await anyio.wait_all_tasks_blocked()
        now[0] = 50
        group.start_soon(work, "late")
        await anyio.wait_all_tasks_blocked()
        now[0] = 61
        lock.release("a")
    # Who of the two came first, and who of all runs first once they are woken, trio leaves to chance.
    assert ends.pop("late") == "had it"
    refused = "User: not sent within 60 s, as it waited for earlier changes of the same resource; "
    assert sorted(end.removeprefix(refused) for end in ends.values()) == [
        "1 more calls wait; retry later",
        "2 more calls wait; retry later",
    ]
    assert not lock._queues
