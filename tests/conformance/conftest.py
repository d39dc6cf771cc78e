"""Each suite runs its tests over every case of its role: the fixtures `bench`, then the store by the name of its role."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.conformance.cases import CASES, Suite
from tests.conformance.harness import Bench


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    suite: Suite | None = getattr(metafunc.module, "SUITE", None)
    if suite is not None and "bench" in metafunc.fixturenames:
        metafunc.parametrize("bench", list(CASES[suite].items()), ids=list(CASES[suite]), indirect=True)


@pytest.fixture
async def bench(request: pytest.FixtureRequest, anyio_backend: object) -> AsyncIterator[Bench]:
    """A fresh place of the case, closed after the test."""
    _, factory = request.param
    bench = Bench(factory(request))
    yield bench
    await bench.aclose()
