"""From bindings to providers with typed options: merging, aliases, defaults, and every mistake with its path."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from rich.pretty import pretty_repr

from specstar.backends.registry import find_provider
from specstar.config import BackendBinding, BackendConfig, BackendDefaults, ConnectionProfile, Encoding, resolve_config
from specstar.errors import ConfigError


def problems(source: Any, environ: Mapping[str, str] | None = None) -> list[tuple[str, str, str | None]]:
    with pytest.raises(ConfigError) as caught:
        resolve_config(source, environ=environ or {})
    return [(problem.path, problem.reason, problem.suggestion) for problem in caught.value.problems]


def tiny(**options: Any) -> dict[str, Any]:
    return {"type": "tiny", "options": {"place": "here", **options}}


def test_everything_left_out_means_memory_and_no_queue() -> None:
    sources: list[Any] = [{}, BackendConfig()]
    for source in sources:
        resolved = resolve_config(source)
        assert [(bound.role, bound.type) for bound in resolved] == [
            ("meta", "memory"),
            ("resource", "memory"),
            ("blob", "memory"),
        ]
        assert resolved.mq is None


def test_options_of_a_binding_win_over_those_of_its_connection() -> None:
    tree = {
        "defaults": {"encoding": "msgpack"},
        "connections": {"c": {**tiny(port=1, mode="brisk", limit=9), "tags": ["eu", "fast"]}},
        "meta": {"use": "c"},
        "resource": {"use": "c", "options": {"port": 2, "limit": None, "encoding": "json"}},
    }
    resolved = resolve_config(tree)
    meta, resource = resolved.meta, resolved.resource
    assert (meta.options.port, meta.options.mode, meta.options.limit) == (1, "brisk", 9)
    assert (resource.options.port, resource.options.mode, resource.options.limit) == (2, "brisk", None)
    assert (meta.options.encoding, resource.options.encoding) == (Encoding.msgpack, Encoding.json)
    assert (meta.connection, meta.tags, resolved.blob.connection) == ("c", ("eu", "fast"), None)
    assert [resource.origin_of(name) for name in ("port", "mode", "encoding", "ratio")] == [
        "given",
        "connection",
        "given",
        "default",
    ]
    assert meta.origin_of("encoding") == "defaults"
    assert meta.provider is find_provider("tiny")


def test_roles_on_one_connection_share_its_options() -> None:
    tree = {"connections": {"c": tiny()}, "meta": {"use": "c"}, "resource": {"use": "c"}, "blob": {"use": "c"}}
    resolved = resolve_config(tree)
    assert resolved.meta.options is resolved.resource.options is resolved.blob.options


def test_an_alias_is_its_name() -> None:
    tree = {
        "connections": {"c": {"type": "tiny", "options": {"where": "there", "mode": "brisk"}}},
        "meta": {"use": "c", "options": {"speed": "calm"}},
        "resource": {"type": "tiny", "options": {"where": "a", "place": "a"}},
    }
    resolved = resolve_config(tree)
    assert (resolved.meta.options.place, resolved.meta.options.mode) == ("there", "calm")
    assert resolved.resource.options.place == "a"
    from_environment = {"meta": {"type": "tiny", "options": {"where": "$A", "place": "a"}}}
    assert resolve_config(from_environment, environ={"A": "a"}).meta.options.place == "a"


def test_an_alias_with_another_value_clashes_with_its_name() -> None:
    options = {"where": "a", "place": "b"}
    connections = {"used": {"type": "tiny", "options": options}, "unused": {"type": "tiny", "options": options}}
    found = problems(
        {"connections": connections, "meta": {"use": "used"}, "blob": {"type": "tiny", "options": options}}
    )
    reason = "'where' has another value, and both name one option; give one of them"
    assert [(path, text) for path, text, _ in found] == [
        ("connections.used.options.place", reason),
        ("connections.unused.options.place", reason),
        ("blob.options.place", reason),
    ]


def test_many_mistakes_are_reported_together() -> None:
    tree = {
        "version": 2,
        "conections": {},
        "defaults": {"encoding": "jsn", "presigned_url_expiry": 0, "table_prefx": "a"},
        "connections": {
            "one": {"type": "tiyn"},
            "two": {"type": "tiny", "options": {"place": "", "prot": 1, "ratio": 2, "mode": "brik"}},
            "three": {"type": "tiny", "options": {"port": "$UNDEFINED"}, "enabled": "yes", "tag": []},
            "four": {"options": {}},
            "a.b c": 5,
        },
        "meta": {"use": "tow"},
        "resource": {"use": "two", "type": "tiny"},
        "blob": {},
        "mq": {"type": "tiny", "option": {}, "options": {"prot": 1}},
    }
    assert {path: (reason, near) for path, reason, near in problems(tree)} == {
        "version": ("expected one of 1", None),
        "conections": ("unknown key", "connections"),
        "defaults.encoding": ("expected one of 'json', 'msgpack'", "json"),
        "defaults.presigned_url_expiry": ("expected int >= 1", None),
        "defaults.table_prefx": ("unknown key", "table_prefix"),
        "connections.one.type": ("unknown backend type 'tiyn'", "tiny"),
        "connections.two.options.place": ("required option is empty", None),
        "connections.two.options.prot": ("unknown option", "port"),
        "connections.two.options.ratio": ("expected float <= 1.0", None),
        "connections.two.options.mode": ("expected one of 'brisk', 'calm'", "brisk"),
        "connections.three.options.port": (
            "environment variable UNDEFINED is not set; write ${UNDEFINED:-default} to give it a default, $$ for a dollar",
            None,
        ),
        "connections.three.options.place": ("required option is missing (place or where)", None),
        "connections.three.enabled": ("expected bool, got str", None),
        "connections.three.tag": ("unknown key", "tags"),
        "connections.four": ('needs "type", the backend type', None),
        "connections['a.b c']": ("expected object, got int", None),
        "meta.use": ("unknown connection 'tow'", "two"),
        "resource": ('"use" and "type" together; give the name of a connection, or an inline backend type', None),
        "blob": ('needs "use" (the name of a connection) or "type" (an inline backend type)', None),
        "mq.option": ("unknown key", "options"),
        "mq.options.prot": ("unknown option", "port"),
        "mq.type": ("backend type 'tiny' has no role 'mq'; it has: meta, resource, blob", None),
    }


def test_types_are_checked_at_any_depth_and_never_quoted() -> None:
    tree = {"meta": tiny(sizes=[1, "hunter2"], corner={"x": "hunter2", "z": 1}, label="hunter2", extra=[])}
    assert problems(tree) == [
        ("meta.options.sizes[1]", "expected int, got str", None),
        ("meta.options.corner.x", "expected int, got str", None),
        ("meta.options.label", "expected str of length <= 5", None),
        ("meta.options.extra", "expected object, got array", None),
    ]


def test_a_float_without_a_fraction_is_an_integer() -> None:
    options = resolve_config({"meta": tiny(port=5.0, sizes=[1.0], ratio=1)}).meta.options
    assert (options.port, options.sizes, options.ratio) == (5, [1], 1.0)
    assert type(options.port) is int
    assert problems({"meta": tiny(port=5.5)}) == [("meta.options.port", "expected int, got float", None)]
    assert problems({"meta": tiny(port=True)}) == [("meta.options.port", "expected int, got bool", None)]


def test_values_from_the_environment_never_show() -> None:
    tree = {
        "defaults": {"encoding": "$S"},
        "connections": {"c": {"type": "$S", "options": {}}, "d": tiny(mode="$S", port="$S", corner={"x": "$S"})},
        "meta": {"use": "$S"},
        "resource": {"type": "$S"},
        "blob": tiny(port=13, badge="hunter2"),
    }
    with pytest.raises(ConfigError) as caught:
        resolve_config(tree, environ={"S": "hunter2"})
    text = str(caught.value)
    assert "hunter2" not in text
    assert "connections.c.type: unknown backend type (from the environment)" in text
    assert "meta.use: unknown connection (from the environment)" in text
    assert "blob.options.port: 13 is no port for blobs of ***" in text
    assert caught.value.__cause__ is None


def test_secrets_never_show() -> None:
    found = problems({"meta": tiny(badge=["hunter2"])})
    assert found == [("meta.options.badge", "expected str | null, got array", None)]
    postgres = {"type": "postgres", "options": {"connection_string": "postgres:/u:hunter2@h"}}
    [(path, reason, _)] = problems({"meta": postgres, "resource": {"type": "memory"}})
    assert path == "meta.options.connection_string"
    assert "hunter2" not in reason


def test_reprs_show_no_secret() -> None:
    options = {"place": "x", "badge": "hunter2"}
    config = BackendConfig(
        connections={"c": ConnectionProfile(type="tiny", options=options)},
        meta=BackendBinding(use="c"),
        blob=BackendBinding(type="tiny", options=options),
    )
    resolved = resolve_config(config)
    for text in (repr(config), pretty_repr(config), repr(resolved), pretty_repr(resolved), str(resolved.blob)):
        assert "hunter2" not in text
        assert "badge" in text


@pytest.mark.parametrize("name", ["blob", "meta", "resource"])
def test_a_disabled_connection_cannot_be_used(name: str) -> None:
    connection = {**tiny(), "enabled": False}
    for required in (True, False):
        tree = {"connections": {"c": connection}, name: {"use": "c", "required": required}}
        assert problems(tree) == [(f"{name}.use", "connection 'c' is disabled; enable it", None)]


def test_a_queue_that_is_not_required_may_be_disabled() -> None:
    connection = {"type": "tinymq", "options": {"place": "p"}, "enabled": False}
    tree = {"connections": {"c": connection}, "mq": {"use": "c", "required": False}}
    assert resolve_config(tree).mq is None
    tree["mq"] = {"use": "c"}
    assert problems(tree) == [
        ("mq.use", "connection 'c' is disabled; enable it, or bind the role with required: false", None)
    ]
    tree["mq"] = {"use": "c", "required": False, "options": {"prot": 1}}
    assert problems(tree) == [("mq.options.prot", "unknown option", "port")]


def test_a_connection_that_is_not_used_is_checked_too() -> None:
    connections = {
        "empty": {"type": "tiny"},
        "wrong": tiny(port="1"),
        "typo": tiny(bagde="x"),
        "off": {"type": "tiny", "options": {"port": 0}, "enabled": False},
        "fine for meta": tiny(port=13),
    }
    assert problems({"connections": connections}) == [
        ("connections.empty.options.place", "required option is missing (place or where)", None),
        ("connections.wrong.options.port", "expected int, got str", None),
        ("connections.typo.options.bagde", "unknown option", "badge"),
        ("connections.off.options.port", "expected int >= 1", None),
    ]


def test_a_connection_may_leave_options_to_its_bindings_but_not_its_mistakes() -> None:
    tree = {
        "connections": {"c": {"type": "tiny", "options": {"port": 9}}},
        "meta": {"use": "c", "options": {"place": "a"}},
        "blob": {"use": "c", "options": {"where": "b"}},
    }
    resolved = resolve_config(tree)
    assert (resolved.meta.options.place, resolved.blob.options.place, resolved.blob.options.port) == ("a", "b", 9)
    tree["resource"] = {"use": "c"}
    reason = "required option is missing (place or where)"
    assert problems(tree) == [("connections.c.options.place", reason, None)]
    hidden = {"connections": {"c": tiny(port="x")}, "meta": {"use": "c", "options": {"port": 5}}}
    assert problems(hidden) == [("connections.c.options.port", "expected int, got str", None)]


def test_a_default_that_a_backend_refuses_is_blamed_on_the_defaults() -> None:
    tree = {
        "defaults": {"table_prefix": "x" * 201},
        "meta": {"type": "postgres", "options": {"dsn": "postgresql://h/d"}},
    }
    assert [path for path, _, _ in problems(tree)] == ["defaults.table_prefix"]


def test_objects_made_by_hand_get_the_same_checks() -> None:
    config = BackendConfig(
        version=3,  # type: ignore[arg-type]
        defaults=BackendDefaults(encoding="xml", blob_prefix=7),  # type: ignore[arg-type]
        connections={"c": ConnectionProfile(type="tiny", options={"place": "p", "port": "1"}, tags="x")},  # type: ignore[arg-type]
        meta=BackendBinding(use="c", required="no"),  # type: ignore[arg-type]
        resource={"type": "memory"},  # type: ignore[arg-type]
        blob=BackendBinding(type=5),  # type: ignore[arg-type]
        mq=[],  # type: ignore[arg-type]
    )
    assert {path: reason for path, reason, _ in problems(config)} == {
        "version": "expected one of 1",
        "defaults.encoding": "expected one of 'json', 'msgpack'",
        "defaults.blob_prefix": "expected str, got int",
        "connections.c.options.port": "expected int, got str",
        "connections.c.tags": "expected array, got str",
        "meta.required": "expected bool, got str",
        "resource": "expected BackendBinding, got object",
        "blob.type": "expected str | null, got int",
        "mq": "expected BackendBinding, got array",
    }
    bad_connections = BackendConfig(connections={"c": {"type": "tiny"}})  # type: ignore[dict-item]
    assert problems(bad_connections) == [("connections.c", "expected ConnectionProfile, got object", None)]
    assert problems(BackendConfig(connections=[], defaults=None)) == [  # type: ignore[arg-type]
        ("defaults", "expected BackendDefaults, got null", None),
        ("connections", "expected object, got array", None),
    ]


def test_unknown_names_list_what_there_is() -> None:
    tree = {
        "connections": {"alpha": tiny()},
        "meta": {"use": "qqqq"},
        "blob": {"type": "zzzz"},
        "mq": {"use": "simple"},
    }
    found = {path: reason for path, reason, _ in problems(tree)}
    assert found["meta.use"] == "unknown connection 'qqqq'; known: 'alpha'"
    assert re.match(
        "unknown backend type 'zzzz'; known: disk, memory, postgres, rabbitmq, s3, simple, ", found["blob.type"]
    )
    assert found["mq.use"].endswith('for an inline backend write "type": "simple"')
    assert problems({"meta": {"use": "c"}}) == [("meta.use", "unknown connection 'c'; there are none", None)]


def test_long_and_strange_names_are_cut_and_escaped() -> None:
    [(path, _, _)] = problems({"meta": {"type": "memory", "options": {"x" * 100_000: 1}}})
    assert len(path) < 200
    [(path, reason, _)] = problems({"meta": {"use": "a\nb"}})
    assert "\n" not in reason


def test_a_check_that_fails_is_reported_without_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def validate(options: Any, role: str) -> list[tuple[str, str]]:
        raise ValueError(f"secret {options.badge}")

    monkeypatch.setattr(find_provider("tiny"), "validate", validate)
    [(path, reason, _)] = problems({"meta": tiny(badge="hunter2")})
    assert (path, reason) == ("meta.options", "the check of backend type 'tiny' failed with ValueError")


def test_the_real_backends_resolve_without_their_drivers_or_any_connection() -> None:
    program = """
import socket, sys
socket.socket.connect = None
from specstar.config import resolve_config
resolved = resolve_config({
    "connections": {
        "pg": {"type": "postgres", "options": {"dsn": "postgresql://u:p@nowhere.invalid/d"}},
        "s3": {"type": "s3", "options": {"bucket": "bucket", "endpoint_url": "http://nowhere.invalid"}},
        "rabbit": {"type": "rabbitmq", "options": {}},
    },
    "meta": {"use": "pg"}, "resource": {"use": "pg"}, "blob": {"use": "s3"}, "mq": {"use": "rabbit"},
})
assert [bound.type for bound in resolved] == ["postgres", "postgres", "s3", "rabbitmq"]
drivers = {"asyncpg", "aioboto3", "boto3", "botocore", "aiormq", "apsw", "aiofiles"} & set(sys.modules)
assert not drivers, drivers
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_third_party_type_that_does_not_load_is_a_problem_at_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    from specstar.backends import registry

    points = {"broken": EntryPoint("broken", "no_such_module_of_ours:Provider", registry.ENTRY_POINT_GROUP)}
    monkeypatch.setattr(registry, "_entry_points", lambda: points)
    [(path, reason, _)] = problems({"meta": {"type": "broken"}})
    assert path == "meta.type"
    assert "no_such_module_of_ours" in reason


def test_defaults_that_fail_are_reported_without_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def apply_defaults(options: dict[str, Any], defaults: BackendDefaults) -> dict[str, Any]:
        raise AttributeError(f"secret {options['badge']}")

    monkeypatch.setattr(find_provider("tiny"), "apply_defaults", apply_defaults)
    [(path, reason, _)] = problems({"connections": {"c": tiny(badge="hunter2")}, "meta": {"use": "c"}})
    assert (path, reason) == ("connections.c.options", "the check of backend type 'tiny' failed with AttributeError")


@pytest.mark.parametrize(
    ("bound", "warnings"),
    [
        ([], []),
        (["meta", "resource", "blob"], []),
        (["meta", "resource"], []),  # said when blobs are first used
        (["meta"], ["the payloads of resources are in memory"]),
        (["resource"], ["meta is in memory"]),
        (["blob"], []),
        (["mq"], []),  # said when a job with state is first used
        (["meta", "mq"], ["the payloads of resources"]),
        (["meta", "resource", "mq"], []),
    ],
)
def test_roles_in_memory_beside_durable_ones_are_warned_of(bound: list[str], warnings: list[str]) -> None:
    kinds = {"mq": {"type": "rabbitmq", "options": {"amqp_url": "amqp://localhost"}}}
    disk = {"type": "disk", "options": {"rootdir": "data"}}
    found = resolve_config({role: kinds.get(role, disk) for role in bound}).warnings()
    assert len(found) == len(warnings)
    assert all(part in text for part, text in zip(warnings, found, strict=True))
    assert resolve_config({"mq": {"type": "simple"}}).warnings() == []


@pytest.mark.parametrize(
    ("bound", "warnings"),
    [
        ([], []),
        (["meta", "resource", "blob", "mq"], []),
        (["meta", "resource"], ["blobs are in memory"]),
        (["meta", "resource", "mq"], ["blobs are in memory"]),
        (["mq"], ["the state of jobs is in the memory"]),
        (["blob", "mq"], ["the state of jobs is in the memory"]),
        (["meta", "mq"], ["the payloads of resources", "the state of jobs"]),
    ],
)
def test_so_is_what_matters_once_it_is_used(bound: list[str], warnings: list[str]) -> None:
    kinds = {"mq": {"type": "rabbitmq", "options": {"amqp_url": "amqp://localhost"}}}
    disk = {"type": "disk", "options": {"rootdir": "data"}}
    found = resolve_config({role: kinds.get(role, disk) for role in bound}).warnings(in_use=True)
    assert len(found) == len(warnings)
    assert all(part in text for part, text in zip(warnings, found, strict=True))
