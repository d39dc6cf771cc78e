"""Every public coroutine has a case: a new one without a case fails here."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

from specstar.blobs import BlobManager, BlobStream
from specstar.core import Configured
from tests.faults.cancellation.test_every_await import FAMILIES

MODULES = ["specstar", "specstar.blobs", "specstar.core", "specstar.message_queue", "specstar.resource_manager"]
# Reached from public objects without being public names themselves.
REACHED = {BlobManager, BlobStream, Configured}
ASYNCHRONOUS = {"__aenter__", "__aexit__", "__anext__", "__await__"}
# It waits for nothing.
WITHOUT_AWAIT = {"SpecStar.__aenter__"}


def public_classes() -> set[type]:
    found = set(REACHED)
    for name in MODULES:
        module = importlib.import_module(name)
        for public in module.__all__:
            value = getattr(module, public)
            if inspect.isclass(value) and value.__module__.startswith("specstar."):
                found.add(value)
    return found


def coroutines_of(kind: type) -> Iterator[str]:
    for name, value in vars(kind).items():
        if name.startswith("_") and name not in ASYNCHRONOUS:
            continue
        function: Any = inspect.unwrap(value) if callable(value) else value
        awaited = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        if awaited or (name in ASYNCHRONOUS and callable(value)):
            yield f"{kind.__name__}.{name}"


def test_every_public_coroutine_is_cancelled_somewhere() -> None:
    public = {name for kind in public_classes() for name in coroutines_of(kind)}
    cases = {case.name for cases in FAMILIES.values() for case in cases}
    assert public - cases == WITHOUT_AWAIT
    assert cases <= public
    assert {"SpecStar.run_workers", "ResourceManager.iter", "BlobManager.upload", "JobQueue.wait"} <= public


def test_public_functions_are_no_coroutines() -> None:
    """`run_workers`, which `SpecStar.run_workers` calls, is the one that is."""
    found = set()
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            if inspect.iscoroutinefunction(getattr(module, name)):
                found.add(name)
    assert found == {"run_workers"}
