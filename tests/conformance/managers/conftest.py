"""One configured SpecStar for each binding of the roles, for the suites that run behind the managers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from specstar import SpecStar
from tests.conformance.managers.blocking import BlockingStar
from tests.conformance.managers.users import FIELDS, User, Users

BINDINGS = ["memory", "disk", "disk-msgpack", "postgres", "postgres+disk", "postgres+s3", "s3"]


def _disk(tmp_path: Path, **options: Any) -> dict[str, Any]:
    return {"type": "disk", "options": {"rootdir": str(tmp_path / "data"), **options}}


def _postgres(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"type": "postgres", "options": {"dsn": request.getfixturevalue("postgres_database")}}


def _s3(request: pytest.FixtureRequest) -> dict[str, Any]:
    server = request.getfixturevalue("s3")
    options = {
        "bucket": request.getfixturevalue("s3_bucket"),
        "endpoint_url": server.endpoint_url,
        "access_key_id": server.access_key_id,
        "secret_access_key": server.secret_access_key,
    }
    return {"type": "s3", "options": options}


@pytest.fixture(params=BINDINGS)
def binding(request: pytest.FixtureRequest) -> str:
    """The name of the binding under test."""
    name: str = request.param
    return name


@pytest.fixture
def backend(binding: str, request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The configuration of the binding under test."""
    match binding:
        case "memory":
            meta = resource = {"type": "memory"}
        case "disk":
            meta = resource = _disk(tmp_path)
        case "disk-msgpack":
            meta = resource = _disk(tmp_path, encoding="msgpack")
        case "postgres":
            meta = resource = _postgres(request)
        case "postgres+disk":
            meta, resource = _postgres(request), _disk(tmp_path)
        case "postgres+s3":
            meta, resource = _postgres(request), _s3(request)
        case "s3":
            meta = resource = _s3(request)
        case _:
            raise AssertionError(binding)
    blob = resource if resource["type"] != "postgres" else {"type": "memory"}
    return {"meta": meta, "resource": resource, "blob": blob, "mq": {"type": "simple"}}


@pytest.fixture
def durable(binding: str) -> bool:
    """True if the data outlives `aclose`."""
    return binding != "memory"


@pytest.fixture(params=["async", "sync"])
def caller(request: pytest.FixtureRequest, anyio_backend: Any) -> str:
    """How the calls are made: awaited, or through the blocking facade from threads (once, on asyncio)."""
    name: str = request.param
    return name


MIXTURES = {"disk-msgpack", "postgres+disk", "postgres+s3"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What adds nothing is left out: the blocking facade is the same whichever loop the test itself runs on, and a mixture
    of backends is the same for every caller."""
    items[:] = [item for item in items if not _adds_nothing(item)]


def _adds_nothing(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    if callspec is None or "caller" not in callspec.params:
        return False
    on_trio = callspec.params["anyio_backend"][0] == "trio"
    blocks = callspec.params["caller"] == "sync"
    return (on_trio and blocks) or (callspec.params.get("binding") in MIXTURES and (on_trio or blocks))


@pytest.fixture
async def star(backend: dict[str, Any], caller: str, anyio_backend: Any) -> AsyncIterator[SpecStar | BlockingStar]:
    """A configured SpecStar, closed afterwards."""
    spec = SpecStar()
    spec.configure(backend=backend)
    async with spec:
        yield spec if caller == "async" else BlockingStar(spec)


@pytest.fixture
def users(star: SpecStar) -> Users:
    """One model, with all of its fields indexed."""
    return star.add_model(User, indexed_fields=FIELDS)
