"""Searches all that the suite puts out for the passwords and keys of the servers that it used: one that shows fails the run."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from services.host import ServiceHost
from tests.services_plugin import HOST

__all__ = ["shown_in"]


def shown_in(report: pytest.TestReport | pytest.CollectReport, secrets: Iterable[str]) -> list[str]:
    """The places of a report in which a secret shows: captured output and log.

    Not the traceback of a failed test, in which pytest shows what the test itself was given, the address of a server too.
    """
    return sorted({name for name, content in report.sections for secret in secrets if secret in content})


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the reports of all workers come to one process
        config.pluginmanager.register(_Search(config), "specstar-secrets-search")


class _Search:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._leaks: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        host = self._config.stash.get(HOST, None)
        if isinstance(host, ServiceHost):
            self._leaks += [f"{report.nodeid}, {report.when}: {place}" for place in shown_in(report, host.secrets())]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._leaks:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._leaks:
            terminalreporter.section("a password or key shows in the output", red=True)
            for leak in self._leaks:
                terminalreporter.write_line(leak)
