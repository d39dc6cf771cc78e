"""The job suite runs over every queue backend, on asyncio and trio: one more backend is one more case here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from specstar import SpecStar
from specstar.message_queue import BoundMessageQueueFactory
from specstar.roles import MessageQueueFactory
from tests.conformance.managers.blocking import BlockingStar

CASES = ["simple", "simple-sync", "simple-disk", "rabbitmq", "rabbitmq-quorum"]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    """The name of the case under test."""
    name: str = request.param
    return name


@pytest.fixture
def configuration(case: str, request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The configuration of the case under test, with retries at once."""
    state: dict[str, Any] = {"type": "memory"}
    if case.endswith("disk"):
        state = {"type": "disk", "options": {"rootdir": str(tmp_path / "state")}}
    mq: dict[str, Any] = {"type": "simple", "options": {"retry_delay_seconds": 0}}
    if case.startswith("rabbitmq"):
        options = {
            "amqp_url": request.getfixturevalue("amqp_url"),
            "queue_prefix": request.getfixturevalue("queue_prefix"),
            "retry_delay_seconds": 0,
            "delay_queue_expiry_seconds": 300,  # or the queues of all tests pile up
            "queue_type": "quorum" if case.endswith("quorum") else "classic",
        }
        mq = {"type": "rabbitmq", "options": options}
    return {"meta": state, "resource": state, "mq": mq}


@pytest.fixture
async def spec(case: str, configuration: dict[str, Any], anyio_backend: Any) -> AsyncIterator[SpecStar | BlockingStar]:
    """A configured SpecStar, closed afterwards; "sync": used through the blocking facade, its workers too."""
    spec = SpecStar()
    spec.configure(backend=configuration)
    async with spec:
        yield BlockingStar(spec) if case.endswith("sync") else spec


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not _adds_nothing(item)]


def _adds_nothing(item: pytest.Item) -> bool:
    """Through the blocking facade: what is said of jobs, once, on asyncio."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    if parameters.get("case") != "simple-sync":
        return False
    return item.path.stem not in {"test_jobs", "test_middleware"} or parameters["anyio_backend"][0] == "trio"


@pytest.fixture
def bound(spec: SpecStar) -> BoundMessageQueueFactory:
    """The queue factory that the configuration was resolved into."""
    factory = spec._bound.message_queue_factory
    assert factory is not None
    return factory


@pytest.fixture
async def queues(spec: SpecStar, bound: BoundMessageQueueFactory) -> MessageQueueFactory:
    """The factory of the role, for tests below the jobs; use it inside `on_home`."""

    async def build() -> MessageQueueFactory:
        return bound.open(spec._gate)

    return await spec._gate.run(build)
