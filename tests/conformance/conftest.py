"""Each suite runs its tests over every case of its role: the fixtures `bench`, then the store by the name of its role.

Each case is called from asyncio and from trio; those without a server also by blocked threads, as `specstar.sync` calls.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.conformance.cases import CASES, WITHOUT_SERVER, Suite
from tests.conformance.harness import Bench
from tests.services_plugin import PostgresAdmin

# What several threads ask for at once has no order.
OF_ONE_LOOP = {"test_writes_of_one_key_take_effect_in_the_order_of_the_calls"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    suite: Suite | None = getattr(metafunc.module, "SUITE", None)
    if suite is not None and "bench" in metafunc.fixturenames:
        chosen = [(name, factory, "async") for name, factory in CASES[suite].items()]
        chosen += [(name, factory, "sync") for name, factory in CASES[suite].items() if name in WITHOUT_SERVER]
        ids = [name if caller == "async" else f"{name}-sync" for name, _, caller in chosen]
        metafunc.parametrize("bench", chosen, ids=ids, indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Blocked threads are the same whichever loop the test itself runs on."""
    items[:] = [item for item in items if not _adds_nothing(item)]


def _adds_nothing(item: pytest.Item) -> bool:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    if "bench" not in parameters or parameters["bench"][2] == "async":
        return False
    return parameters["anyio_backend"][0] == "trio" or item.name.partition("[")[0] in OF_ONE_LOOP


@pytest.fixture
def postgres_database(postgres_admin: PostgresAdmin) -> Iterator[str]:
    """The DSN of an empty database."""
    with postgres_admin.emptied_database() as dsn:
        yield dsn


@pytest.fixture
async def bench(request: pytest.FixtureRequest, anyio_backend: object) -> AsyncIterator[Bench]:
    """A fresh place of the case, closed after the test."""
    _, factory, caller = request.param
    bench = Bench(factory(request), blocking=caller == "sync")
    yield bench
    await bench.aclose()
