"""DSNs with several hosts, taken apart."""

from __future__ import annotations

import pytest

from specstar.backends.postgres.hosts import each_host


@pytest.mark.parametrize(
    ("dsn", "each"),
    [
        (
            "postgresql://ann:p%40ss@one:1,[::1]:2/app?sslmode=require",
            [
                "postgresql://ann:p%40ss@one:1/app?sslmode=require",
                "postgresql://ann:p%40ss@[::1]:2/app?sslmode=require",
            ],
        ),
        ("postgres://one,two?user=ann@home", ["postgres://one?user=ann@home", "postgres://two?user=ann@home"]),
    ],
)
def test_each_host_has_a_dsn(dsn: str, each: list[str]) -> None:
    assert each_host(dsn) == each


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://ann:s3cret@db:5432/app",
        "postgresql:///app?host=one,two",
        "postgresql://one,two/app?port=1,2",
        "postgresql://one,/app",
    ],
)
def test_one_host_and_those_in_parameters_are_left_to_the_driver(dsn: str) -> None:
    assert each_host(dsn) == [dsn]


def test_ports_of_the_environment_are_left_to_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1,2")
    assert each_host("postgresql://one,two/app") == ["postgresql://one,two/app"]
