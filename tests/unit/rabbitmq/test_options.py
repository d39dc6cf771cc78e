"""Options, their checks, and what is shown of them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec
import pytest

from specstar.backends.rabbitmq import RabbitMQOptions, RabbitMQProvider
from specstar.backends.rabbitmq.url import hide_password, place, url_problem

URL = "amqp://user:hush@broker:5673/shop"


def problems(**options: Any) -> list[tuple[str, str]]:
    return RabbitMQProvider().validate(RabbitMQOptions(**options), "mq")


def test_the_defaults_are_those_of_the_reference_and_have_no_problem() -> None:
    options = RabbitMQOptions()
    assert problems() == []
    assert (options.amqp_url, options.queue_prefix) == ("amqp://guest:guest@localhost:5672/", "specstar:")
    assert (options.max_retries, options.retry_delay_seconds, options.amqp_heartbeat_seconds) == (3, 10.0, 600)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (URL, None),
        ("amqps://user:hush@broker/%2Fshop?cafile=/etc/ca.crt", None),
        ("amqp://localhost", None),
        ("amqp://[::1]:5672/", None),
        ("", "required"),
        ("broker:5672", "must begin with amqp:// or amqps://"),
        ("http://broker", "not with 'http'"),
        ("amqp://user:hu/sh@broker/", "percent-encode"),
        ("amqp://user:hu@sh@broker/", "more than one '@'"),
        ("amqp://user:hush@broker/a/b", "vhost"),
        ("amqp://user:hush@broker:99999/", "port"),
        ("amqp://user:hush@broker:0/", "port 0"),
        ("amqp:///vhost", "no host"),
        ("amqp://user:hu sh@broker/", "space"),
        ("amqp://user:hu#sh@broker/", "#"),
        ("amqp://broker/?heartbeat=10", "amqp_heartbeat_seconds"),
        ("amqp://broker/?hartbeat=10", "unknown parameter 'hartbeat'"),
    ],
)
def test_mistakes_of_the_url_are_named_without_the_password(url: str, problem: str | None) -> None:
    found = url_problem(url)
    if problem is None:
        assert found is None
    else:
        assert found is not None
        assert problem in found
        assert "hush" not in found
        assert problems(amqp_url=url) == [("amqp_url", found)]


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"queue_prefix": "amq.x"}, "queue_prefix"),
        ({"queue_prefix": "ä"}, "queue_prefix"),
        ({"queue_prefix": "a\0"}, "queue_prefix"),
        ({"publish_timeout_seconds": 200.0, "delay_queue_expiry_seconds": 300.0}, "delay_queue_expiry_seconds"),
        ({"queue_type": "quorum", "max_priority": 3}, "max_priority"),
    ],
)
def test_options_that_do_not_fit_are_named(options: dict[str, Any], name: str) -> None:
    assert [found for found, _ in problems(**options)] == [name]


@pytest.mark.parametrize(
    "options",
    [
        {"max_retries": -1},
        {"retry_delay_seconds": -1},
        {"amqp_heartbeat_seconds": 70_000},
        {"queue_type": "stream"},
        {"delay_queue_type": "stream"},
        {"max_priority": 10},
        {"partition_shards": 0},
        {"queue_prefix": "x" * 61},
        {"amqp_uri": URL},
    ],
)
def test_values_out_of_range_and_unknown_names_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(options, RabbitMQOptions)


def test_every_option_is_described() -> None:
    fields = msgspec.json.schema(RabbitMQOptions)["$defs"]["RabbitMQOptions"]["properties"]
    assert set(fields) == set(RabbitMQOptions.__struct_fields__)
    undescribed = [
        name
        for name, field in fields.items()
        if "description" not in field and not any("description" in part for part in field.get("anyOf", []))
    ]
    assert undescribed == []


def test_the_password_is_not_shown() -> None:
    options = RabbitMQOptions(amqp_url=URL)
    assert "hush" not in repr(options)
    assert "amqp://user:***@broker:5673/shop" in repr(options)
    assert "hush" not in str(dict(options.__rich_repr__()))
    assert "amqp_url" in RabbitMQOptions.secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://localhost/", "amqp://localhost/"),
        ("amqp://user@localhost/", "amqp://user@localhost/"),
        ("amqp://user:a@b@localhost/", "amqp://user:***@localhost/"),
        ("amqps://h/?cadata=c2VjcmV0&name=x", "amqps://h/?cadata=***&name=x"),
        ("hush", "***"),
        ("", ""),
    ],
)
def test_urls_of_any_form_are_shown_without_secrets(url: str, shown: str) -> None:
    assert hide_password(url) == shown


def test_the_place_of_a_broker_is_host_port_and_vhost() -> None:
    assert place(URL) == "broker:5673 (vhost 'shop')"
    assert place("amqps://[::1]/%2Fa") == "[::1]:5671 (vhost '/a')"
    assert place("amqp://localhost/%2F") == "localhost:5672"


def test_connections_are_shared_unless_an_option_of_the_connection_differs() -> None:
    key = RabbitMQProvider().connection_key
    base = key(RabbitMQOptions())
    assert key(RabbitMQOptions(queue_prefix="x", max_retries=9, retry_delay_seconds=1, queue_type="quorum")) == base
    assert key(RabbitMQOptions(delay_queue_type="classic")) == base
    for other in (
        RabbitMQOptions(amqp_url=URL),
        RabbitMQOptions(amqp_heartbeat_seconds=5),
        RabbitMQOptions(connect_timeout_seconds=5),
        RabbitMQOptions(max_unconfirmed=5),
    ):
        assert key(other) != base


def test_importing_the_backend_imports_no_driver() -> None:
    code = "import specstar.backends.rabbitmq, sys; assert not {'aiormq', 'pamqp', 'yarl'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_driver_the_extra_is_named() -> None:
    code = (
        "import asyncio, sys\nsys.modules['aiormq'] = None\n"
        "from specstar import Job, SpecStar\nfrom specstar.errors import MissingDependencyError\n"
        "spec = SpecStar()\n"
        "@spec.job()\nasync def send(job: Job[int]) -> None: ...\n"
        "async def main():\n"
        "    await spec.configure(backend={'meta': {'type': 'memory'}, 'mq': {'type': 'rabbitmq'}})\n"
        "    await send.enqueue(1)\n"
        "try:\n    asyncio.run(main())\nexcept MissingDependencyError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "specstar[rabbitmq]" in done.stdout
