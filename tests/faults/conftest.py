"""Every test here breaks something for real, in a loop; `figures` counts what it did and what was lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.ledger import Figures, table, write_page
from tests.faults.tools.file_faults import compile_shim

_PROPERTY = "specstar-figures"


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Iterator[Figures]:
    """The counts of this test: it sets `name`, a few words for the table, and counts; they are printed at the end."""
    node = request.node
    counts = Figures(name=node.name)
    yield counts
    # A property of the report: it reaches the printing process from any worker.
    node.user_properties.append((_PROPERTY, counts.encoded()))


@pytest.fixture(scope="session")
def file_faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled shim that makes file calls fail, for `run_program`."""
    return compile_shim(tmp_path_factory.mktemp("file-faults"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.faults)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counted = [
        Figures.decoded(text)
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "teardown"
        for name, text in report.user_properties
        if name == _PROPERTY and isinstance(text, str)
    ]
    if not counted:
        return
    terminalreporter.section("faults")
    terminalreporter.write(table(counted))
    page = os.environ.get("SPECSTAR_FAULTS_PAGE")
    if page:
        write_page(Path(page), counted)
