"""What is built on the connections of a gate is never kept longer than they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from specstar.blobs import BlobManager
from specstar.roles import BlobStore
from specstar.runtime import Gate, Home, PerGeneration


@pytest.fixture
async def gate(anyio_backend: object) -> AsyncIterator[Gate]:
    gate = Gate()
    yield gate
    await gate.aclose()


async def test_it_is_built_once_for_each_generation(gate: Gate) -> None:
    homes: list[Home] = []

    def build(home: Home) -> int:
        homes.append(home)
        return len(homes)

    now = PerGeneration(gate, build)
    assert now.known() is None
    assert [now.get(), now.get(), now.known()] == [1, 1, 1]
    gate.renew(native=True)
    assert now.known() is None
    assert [now.get(), now.get(), now.known()] == [2, 2, 2]
    assert homes[1] is gate.home


async def test_what_was_being_built_when_the_connections_were_dropped_is_not_kept(gate: Gate) -> None:
    built: list[Any] = []

    def store() -> BlobStore:
        built.append(gate.connections)
        if len(built) == 1:
            gate.renew(native=True)  # as another thread may
        return cast("BlobStore", built[-1])

    blobs = BlobManager(gate, store)
    assert cast("Any", blobs._store) is not gate.connections
    assert cast("Any", blobs._store) is gate.connections
    assert cast("Any", blobs._store) is gate.connections
    assert len(built) == 2


async def test_the_home_is_that_of_the_generation(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    settle = gate.settle
    dropped: list[Home] = []

    def dropped_at_once(*, blocking: bool = False) -> Home:
        home = settle(blocking=blocking)
        if not dropped:
            dropped.append(home)
            gate.renew(native=True)
        return home

    monkeypatch.setattr(gate, "settle", dropped_at_once)
    home = PerGeneration(gate, lambda home: home).get()
    assert home is gate.home
