"""What adds nothing is left out, and in short runs what adds little."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not _adds_nothing(item)]


def _adds_nothing(item: pytest.Item) -> bool:
    """Trio has scopes only; over the network a short run cancels by scopes on trio, and tasks on asyncio."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    chosen = parameters.get("here") or parameters.get("over_network")
    if not chosen:
        return False
    if parameters["anyio_backend"][0] == "trio":
        return bool(chosen[2] == "task")
    short = "SPECSTAR_FAULTS" not in os.environ
    return bool(short and "over_network" in parameters and chosen[2] == "scope")
