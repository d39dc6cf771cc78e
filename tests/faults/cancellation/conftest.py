"""What adds nothing is left out, and in short runs what adds little."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not _adds_nothing(item)]


def _adds_nothing(item: pytest.Item) -> bool:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    chosen = parameters.get("here") or parameters.get("over_network")
    if not chosen:
        return False
    kind, family, way = chosen
    on_trio = parameters["anyio_backend"][0] == "trio"
    if on_trio and way == "task":
        return True  # trio has scopes only
    if "over_network" not in parameters or "SPECSTAR_FAULTS" in os.environ:
        return False
    # A short run cancels by scopes on trio, by tasks on asyncio, and S3 on one of the two.
    return (not on_trio and way == "scope") or (kind == "s3" and on_trio is family.startswith("blobs"))
