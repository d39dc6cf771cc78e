"""Fixtures of the whole suite: the event loops here, real servers in tests/services_plugin.py."""

from __future__ import annotations

import gc
import os
import signal
from typing import Any

import hypothesis
import pytest

# A shell starts background commands with SIGINT ignored, and processes inherit that: the programs under test must not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.services_plugin", "tests.secrets_plugin"]

# How long an example takes on a busy machine says nothing.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

EVENT_LOOPS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {"use_uvloop": False}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
CHOSEN_LOOPS = os.environ.get("SPECSTAR_TEST_EVENT_LOOPS", "asyncio,trio").split(",")


def pytest_collection_finish() -> None:
    """The thousands of collected tests stay to the end: no collection of garbage need look at them again."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # what is imported from here on may ask who refers to what


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Why a test was run again: what passes at the second try is a fault too, and may hide until then."""
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.write_sep("_", f"first try of {report.nodeid}", yellow=True)
        terminalreporter.write_line(report.longreprtext)


@pytest.fixture(scope="module", params=[pytest.param(EVENT_LOOPS[name], id=name) for name in CHOSEN_LOOPS])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The event loop: an async test runs once on each. A module for one loop only overrides this fixture."""
    loop: tuple[str, dict[str, Any]] = request.param
    return loop
