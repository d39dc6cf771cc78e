"""What `spec.metrics()` says of calls that travel in batches and of pools; counts go on over closing."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from specstar import SpecStar
from specstar.errors import ResourceNotFoundError
from tests.conformance.managers.users import User


async def together(count: int, call: Callable[[int], Coroutine[Any, Any, None]]) -> None:
    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(call, number)


async def test_calls_share_requests_and_are_counted(backend: dict[str, Any]) -> None:
    spec = SpecStar()
    users = spec.add_model(User)
    assert (spec.metrics().batches, spec.metrics().pools, spec.metrics().jobs) == ((), (), ())
    spec.configure(backend=backend)
    async with spec:

        async def create(number: int) -> None:
            await users.create(User(name="Ada", age=number), resource_id=f"user{number}")

        async def read(number: int) -> None:
            await users.get(f"user{number}")

        await together(40, create)
        await together(40, read)
        told = spec.metrics()
        if backend["meta"]["type"] != "memory":  # which answers at once, without batches
            # Of metadata at least; payloads too, unless each is an object or lies beside them.
            assert sum(batch.calls for batch in told.batches) >= 80
            assert sum(batch.requests for batch in told.batches) < sum(batch.calls for batch in told.batches)
            assert all(batch.requests <= batch.calls for batch in told.batches)
            assert sum(batch.request_seconds for batch in told.batches) > 0
            assert all(batch.request_times.count == batch.requests for batch in told.batches)
        assert all(batch.waiting == 0 for batch in told.batches)
        pools = {pool.backend: pool for pool in told.pools}
        assert set(pools) == {backend[role]["type"] for role in ("meta", "resource")} & {"postgres", "s3"}
        for pool in pools.values():
            assert (pool.in_use, pool.waiting) == (0, 0)
            assert pool.limit > 0
            assert pool.taken > 0
        failed = sum(batch.failed for batch in told.batches)
        with pytest.raises(ResourceNotFoundError):
            await users.update("nobody", User(name="nobody"))
        assert sum(batch.failed for batch in spec.metrics().batches) >= failed
        await spec.aclose()
        assert spec.metrics().pools == ()
        if backend["meta"]["type"] == "memory":  # it is empty now
            return
        await together(5, read)
        after = {batch.name: batch for batch in spec.metrics().batches}
        assert all(after[batch.name].calls >= batch.calls for batch in told.batches)
        assert sum(batch.calls for batch in after.values()) > sum(batch.calls for batch in told.batches)
