"""Fixtures for tests of a program that uses specstar: everything in memory, empty for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from specstar import SpecStar
from specstar import sync as blocking

MEMORY = {
    "meta": {"type": "memory"},
    "resource": {"type": "memory"},
    "blob": {"type": "memory"},
    "mq": {"type": "simple"},
}


@pytest.fixture
async def spec() -> AsyncIterator[SpecStar]:
    """For async tests (anyio, pytest-asyncio, pytest-trio); each may have an event loop of its own."""
    star = SpecStar()
    star.configure(backend=MEMORY)
    async with star:
        yield star


@pytest.fixture
def sync_spec() -> Iterator[blocking.SpecStar]:
    """For plain tests."""
    with blocking.SpecStar() as star:
        star.configure(backend=MEMORY)
        yield star
