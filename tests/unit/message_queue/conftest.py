"""A SpecStar in memory, for the tests of jobs that need no backend in particular."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from specstar import SpecStar

IN_MEMORY: dict[str, Any] = {
    "meta": {"type": "memory"},
    "resource": {"type": "memory"},
    "mq": {"type": "simple", "options": {"retry_delay_seconds": 0}},
}


@pytest.fixture
async def spec(anyio_backend: Any) -> AsyncIterator[SpecStar]:
    """A configured SpecStar, closed afterwards."""
    spec = SpecStar()
    spec.configure(backend=IN_MEMORY)
    async with spec:
        yield spec
