"""What may be printed of options."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct, field

from specstar.config import BackendBinding, ConnectionProfile, redacted, redacted_options, resolve_config


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("./data", "./data"),
        ("", ""),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("postgresql://user:hunter2@host:5432/db", "postgresql://***@host:5432/db"),
        ("postgresql://user:hun/te@r2@host/db?sslmode=require", "postgresql://***@host/db?sslmode=require"),
        (
            "postgresql://host/db?user=u&password=hunter2&sslmode=require",
            "postgresql://host/db?user=u&password=***&sslmode=require",
        ),
        ("host=h password='hun \\' ter2' dbname=d", "host=h password=*** dbname=d"),
        ("host=h PGPASSWORD = hunter2", "host=h PGPASSWORD = ***"),
        ("user:hunter2@host", "***@host"),
        (5, 5),
        (None, None),
        ({"verify": False, "aws_session_token": "hunter2"}, {"verify": False, "aws_session_token": "***"}),
        ({"proxies": ["http://u:hunter2@proxy"]}, {"proxies": ["http://***@proxy"]}),
    ],
)
def test_passwords_are_hidden_wherever_they_are(value: Any, shown: Any) -> None:
    assert redacted(value) == shown


def test_a_secret_shows_only_that_it_is_set() -> None:
    assert redacted("hunter2", secret=True) == "***"
    assert redacted(1234, secret=True) == "***"
    assert redacted({"a": ["hunter2", 1]}, secret=True) == {"a": ["***", "***"]}
    assert redacted(None, secret=True) is None
    assert redacted("", secret=True) == ""
    assert redacted("amqp://guest:hunter2@h:5672/", secret=True) == "amqp://***@h:5672/"


@given(
    st.text(st.characters(exclude_characters="*", exclude_categories=["Cs"]), min_size=1),
    st.sampled_from("/@:?#&=[]% "),
)
def test_no_password_in_a_url_shows_in_part(start: str, odd: str) -> None:
    password = f"{start}{odd}Zq7"
    assert "Zq7" not in redacted(f"scheme://user:{password}@host/path")


class Undeclared(Struct):
    api_key: str = "hunter2"
    db_password: str = "hunter2"
    auth_token: str = "hunter2"
    url: str = "https://u:hunter2@host"
    inner: dict[str, Any] = field(default_factory=lambda: {"client_secret": "hunter2"})
    name: str = "shown"


def test_a_struct_that_declares_no_secrets_is_guarded_by_the_names() -> None:
    shown = redacted_options(Undeclared())
    assert "hunter2" not in str(shown)
    assert shown["name"] == "shown"


def test_the_secrets_of_the_real_backends_are_hidden() -> None:
    resolved = resolve_config(
        {
            "meta": {"type": "postgres", "options": {"dsn": "postgresql://u:hunter2@h/d"}},
            "resource": {"type": "memory"},
            "blob": {
                "type": "s3",
                "options": {
                    "bucket": "bucket",
                    "access_key_id": "hunter2",
                    "secret_access_key": "hunter2",
                    "client_kwargs": {"aws_session_token": "hunter2"},
                },
            },
            "mq": {"type": "rabbitmq", "options": {"amqp_url": "amqp://u:hunter2@h/"}},
        }
    )
    for bound in resolved:
        assert "hunter2" not in str(bound.shown_options())
        assert "hunter2" not in repr(bound)
        assert "hunter2" not in repr(bound.options)


@pytest.mark.parametrize(
    "value",
    [
        "postgresql://u@h/db?password=a@hunter2",
        "postgresql://u@h/db?password=a,hunter2",
        "postgresql://u@h/db?password=a;hunter2&sslmode=require",
        "postgresql://u:a?hunter2@h/db",
        "x://hunter2",
        "hunter2://x",
    ],
)
def test_no_part_of_a_secret_shows(value: str) -> None:
    assert "hunter2" not in redacted(value, secret=True)


@pytest.mark.parametrize(
    "options", [MappingProxyType({"dsn": "hunter2"}), {"dsn": "hunter2"}, "hunter2", ["hunter2"]], ids=repr
)
def test_options_of_any_kind_are_not_shown(options: Any) -> None:
    for struct in (ConnectionProfile(type="postgres", options=options), BackendBinding(type="s3", options=options)):
        assert "hunter2" not in repr(struct)
