"""The JSON Schema against the loader: what one accepts, the other accepts."""

from __future__ import annotations

import copy
import functools
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from specstar.backends.registry import find_provider, provider_types
from specstar.config import BackendConfig, resolve_config
from specstar.errors import ConfigError

Tree = dict[str, Any]
ROLES = ("meta", "resource", "blob")
relaxed = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@functools.cache
def validator() -> jsonschema.Draft202012Validator:
    """Of the schema with `tiny`, which each test here registers alike."""
    return jsonschema.Draft202012Validator(BackendConfig.json_schema())


def loads(tree: Tree) -> bool:
    try:
        resolve_config(tree, environ={})
    except ConfigError:
        return False
    return True


def values() -> st.SearchStrategy[Any]:
    """What JSON can hold, dollars and NULs aside."""
    words = st.sampled_from(
        ["", " ", "a", "abc", "toolong", "ABC", "calm", "brisk", "json", "msgpack", "proxy", "5", "true"]
    )
    text = st.text(st.characters(exclude_characters="$\0", exclude_categories=["Cs"]), max_size=8)
    numbers = st.one_of(
        st.integers(-2, 70_000), st.sampled_from([0.0, 0.5, 1.0, 1.5, -0.5, 3.0, 604_800, 604_801, 2**64])
    )
    scalars = st.one_of(st.none(), st.booleans(), numbers, words, text)
    keys = st.sampled_from(["x", "y", "z", "place"])
    return st.recursive(
        scalars,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
        max_leaves=5,
    )


RIGHT: dict[str, st.SearchStrategy[Any]] = {
    "port": st.integers(1, 65_535).filter(lambda port: port != 13),
    "ratio": st.floats(0, 1),
    "fast": st.booleans(),
    "mode": st.sampled_from(["calm", "brisk"]),
    "encoding": st.sampled_from(["json", "msgpack"]),
    "badge": st.one_of(st.none(), st.just("b")),
    "limit": st.one_of(st.none(), st.integers(1, 9)),
    "label": st.from_regex("[a-z]{2,5}", fullmatch=True),
    "extra": st.dictionaries(st.text("ab", max_size=2), st.integers(), max_size=2),
    "sizes": st.lists(st.integers(), max_size=2),
    "corner": st.one_of(st.none(), st.fixed_dictionaries({"x": st.integers()}, optional={"y": st.floats(0, 1)})),
}


@st.composite
def options(draw: st.DrawFn, *, complete: bool = True) -> Tree:
    """Options of `tiny`, now and then with something wrong in them."""
    found: Tree = draw(st.fixed_dictionaries({}, optional=RIGHT))
    if complete:
        found[draw(st.sampled_from(["place", "where"]))] = draw(st.sampled_from(["here", "there"]))
    if draw(st.integers(0, 9)) == 0:
        found[draw(st.sampled_from([*RIGHT, "place", "prot"]))] = draw(values())
    if "place" in found and "where" in found:
        del found["where"]
    return found


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Configurations whose references between places are right, and which are wrong in at most a few single places."""
    tree: Tree = {}
    names = draw(st.lists(st.sampled_from(["one", "two.three", "vier 4"]), unique=True, max_size=3))
    if draw(st.booleans()) or names:
        tree["connections"] = {}
    for name in names:
        tree["connections"][name] = {"type": "tiny", "options": draw(options())}
        tree["connections"][name] |= draw(
            st.fixed_dictionaries({}, optional={"enabled": st.just(True), "tags": st.lists(st.text("ab"))})
        )
    for role in draw(st.lists(st.sampled_from(ROLES), unique=True)):
        if draw(st.booleans()) and names:
            tree[role] = {"use": draw(st.sampled_from(names)), "options": draw(options(complete=False))}
            if tree[role]["options"].keys() & {"place"}:
                tree[role]["options"] = {}
        elif draw(st.booleans()):
            tree[role] = {"type": "tiny", "options": draw(options(complete=draw(st.integers(0, 3)) > 0))}
        else:
            tree[role] = {"type": draw(st.sampled_from(["memory", "memory", "memory", "tiny", "tinymq", "none"]))}
    if draw(st.booleans()):
        tree["mq"] = draw(
            st.sampled_from([None, {"type": "simple"}, {"type": "simple", "options": {}}, {"type": "tinymq"}, {}])
        )
    right = {
        "encoding": RIGHT["encoding"],
        "presigned_url_expiry": st.integers(1, 604_800),
        "upload_method": st.sampled_from(["proxy", "single_put"]),
    }
    tree |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "version": st.just(1),
                "defaults": st.fixed_dictionaries({}, optional=right),
                "$schema": st.just("s"),
                "x-own": values(),
            },
        )
    )
    if draw(st.integers(0, 2)) == 0:
        _spoil(draw, tree)
    return tree


def _spoil(draw: st.DrawFn, tree: Tree) -> None:
    """Put any value at a place that other places do not depend on."""
    spots: list[tuple[Tree, str]] = [(tree, key) for key in ("version", "defaults", "mq", "$schema", "odd")]
    spots += [(tree[role], key) for role in ROLES if role in tree for key in ("required", "odd")]
    spots += [(connection, key) for connection in tree.get("connections", {}).values() for key in ("tags", "odd")]
    if isinstance(tree.get("defaults"), dict):
        spots += [(tree["defaults"], key) for key in ("encoding", "table_prefix", "presigned_url_expiry", "odd")]
    place, key = draw(st.sampled_from(spots))
    place[key] = draw(values())


@relaxed
@given(trees())
@example({"meta": {"type": "tiny"}})
@example({"meta": {"use": None, "type": "memory"}})
@example({"meta": None})
@example({"mq": None})
@example({"version": True})
@example({"version": 1.0})
@example({"meta": {"type": "tiny", "options": {"place": " \t"}}})
@example({"meta": {"type": "tiny", "options": {"place": "p", "port": 5.0}}})
@example({"connections": {"a": {"type": "tiny", "options": {"where": "p", "speed": "fast"}}}})
def test_a_tree_is_valid_by_the_schema_exactly_if_it_loads(tree: Tree) -> None:
    before = copy.deepcopy(tree)
    errors = [error.message for error in validator().iter_errors(tree)]
    assert loads(tree) == (not errors), errors
    assert tree == before


@relaxed
@given(st.data())
def test_what_the_schema_refuses_no_real_backend_loads(data: st.DataObject) -> None:
    kinds = {
        "memory": {},
        "disk": {"rootdir": "d"},
        "postgres": {"dsn": "postgresql://h/d"},
        "s3": {"bucket": "bucket"},
        "simple": {},
        "rabbitmq": {},
    }
    kind = data.draw(st.sampled_from(sorted(kinds)))
    provider = find_provider(kind)
    assert provider is not None
    names = [*provider.options_type.__struct_encode_fields__, *provider.aliases, "odd"]
    given_options = {**kinds[kind], data.draw(st.sampled_from(names)): data.draw(values())}
    role = "mq" if "mq" in provider.roles else "meta"
    tree = {role: {"type": kind, "options": given_options}}
    if not validator().is_valid(tree):
        assert not loads(tree)


def test_variables_are_allowed_where_a_scalar_is_wanted() -> None:
    variables = dict.fromkeys(
        ["place", "port", "ratio", "fast", "mode", "encoding", "badge", "limit", "label"], "${X:-1}"
    )
    good: Tree = {
        "version": "${V:-1}",
        "defaults": {"encoding": "$E", "presigned_url_expiry": "a${E}"},
        "connections": {
            "c": {"type": "tiny", "options": {**variables, "sizes": ["$A"], "corner": {"x": "$B"}}, "enabled": "$ON"},
            "d": {"type": "${TYPE}", "options": {"anything": 1}},
        },
        "meta": {"use": "$NAME", "required": "$R"},
        "blob": {"type": "$$$TYPE"},
    }
    validator().validate(good)
    for key, value in (("sizes", "$A"), ("port", "$"), ("port", "$$A"), ("port", "5"), ("corner", "$A")):
        bad = {"meta": {"type": "tiny", "options": {"place": "p", key: value}}}
        assert not validator().is_valid(bad), (key, value)


@pytest.mark.parametrize(
    "tree",
    [
        {"meta": {"use": "none"}},
        {"connections": {"c": {"type": "tinymq"}}, "meta": {"use": "c"}},
        {"connections": {"c": {"type": "tiny"}}},
        {"meta": {"type": "tiny", "options": {"place": "a", "where": "b"}}},
        {"meta": {"type": "tiny", "options": {"place": "$"}}},
    ],
)
def test_what_spans_two_places_is_left_to_the_loader(tree: Tree) -> None:
    assert validator().is_valid(tree)
    assert not loads(tree)


def test_the_schema_holds_every_option_of_every_type_with_its_text() -> None:
    schema = BackendConfig.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    json.dumps(schema, allow_nan=False)
    assert {"disk", "memory", "postgres", "rabbitmq", "s3", "simple", "tiny"} <= set(provider_types())
    for name in provider_types():
        provider = find_provider(name)
        assert provider is not None
        properties = schema["$defs"][f"{name}.options"]["properties"]
        assert set(properties) == {*provider.options_type.__struct_encode_fields__, *provider.aliases}
        if not name.startswith("tiny"):
            assert all(member.get("description") for member in properties.values()), name
    for members in (schema["properties"], schema["$defs"]["BackendDefaults"]["properties"]):
        assert all("description" in member for key, member in members.items() if key != "$schema")


def test_a_mistake_in_an_option_is_found_at_its_place() -> None:
    tree = {"meta": {"type": "tiny", "options": {"place": "p", "port": "x"}}}
    assert [list(error.absolute_path) for error in validator().iter_errors(tree)] == [["meta", "options", "port"]]
