"""The search for secrets in the output of the suite finds what there is."""

from __future__ import annotations

import pytest

from services.endpoints import AmqpEndpoint, PostgresEndpoint, S3Endpoint
from services.host import ServiceHost
from tests.secrets_plugin import shown_in


def report(**sections: str) -> pytest.TestReport:
    return pytest.TestReport(
        "tests/x.py::test", ("x.py", 1, "test"), {}, "passed", None, "call", sections=list(sections.items())
    )


def test_a_secret_is_found_wherever_it_shows() -> None:
    assert shown_in(report(out="all is well", log="nothing"), ["hunter2"]) == []
    assert shown_in(report(out="dsn postgresql://u:hunter2@h", log="key hunter2"), ["hunter2", "other"]) == [
        "log",
        "out",
    ]


def test_the_host_knows_the_secrets_of_its_servers() -> None:
    given = {
        "postgres": PostgresEndpoint(dsn="postgresql://u:one@127.0.0.1:1/d"),
        "rabbitmq": AmqpEndpoint(url="amqp://u:two@127.0.0.1:1/"),
        "s3": S3Endpoint(endpoint_url="http://127.0.0.1:1", access_key_id="id", secret_access_key="three"),
    }
    with ServiceHost(given) as host:  # type: ignore[arg-type]  # a literal of the names
        assert host.secrets() == frozenset()
        for name in ("postgres", "rabbitmq", "s3"):
            host.endpoint(name)
        assert host.secrets() == {"one", "two", "three"}
