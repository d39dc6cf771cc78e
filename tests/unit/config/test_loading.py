"""Reading files and mappings: every way in which they can be broken."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import pytest

from specstar.config import BackendBinding, BackendConfig, ConnectionProfile, Encoding, loading, resolve_config
from specstar.errors import ConfigError


def file(folder: Path, content: str | bytes) -> Path:
    path = folder / "backend.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(source: Any, environ: dict[str, str] | None = None) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        resolve_config(source, environ=environ or {})
    return caught.value


def test_a_file_a_mapping_and_an_object_give_the_same(tmp_path: Path) -> None:
    tree = {"meta": {"type": "tiny", "options": {"place": "here", "port": 7}}}
    path = file(tmp_path, json.dumps(tree))
    struct = BackendConfig(meta=BackendBinding(type="tiny", options={"place": "here", "port": 7}))

    found = [resolve_config(source).meta.options for source in (path, str(path), tree, MappingProxyType(tree), struct)]

    assert found == [found[0]] * 5
    assert resolve_config(path).source == str(path)
    assert resolve_config(tree).source is None


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    assert resolve_config(file(tmp_path, b"\xef\xbb\xbf{}")).meta.type == "memory"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "the file is empty"),
        ("  \n", "the file is empty"),
        ('{\n  "meta": {"type" "tiny"}\n}', "line 2, column 19: broken JSON: Expecting ':' delimiter"),
        ('{"a": 1} x', "line 1, column 10: broken JSON: Extra data"),
        ("{'a': 1}", "line 1, column 2: broken JSON"),
        (b'{"a": "\xff"}', "line 1: not UTF-8"),
        (b'{\n"a": "\xff"}', "line 2: not UTF-8 (byte 9)"),
        ("[1]", "expected a JSON object, got array"),
        ('"meta"', "expected a JSON object, got str"),
        ("null", "expected a JSON object, got null"),
        ("[" * 100_000, "nested too deep"),
        ('{"a":' * 100_000, "nested too deep"),
        ('{"version": ' + "1" * 5000 + "}", "too many digits"),
        ('{"version": NaN}', "NaN is not JSON"),
        (" " * (1 << 20) + "{}", "larger than 1048576 bytes"),
    ],
)
def test_a_broken_file_says_what_and_where(tmp_path: Path, content: str | bytes, reason: str) -> None:
    path = file(tmp_path, content)
    error = refusal(path)
    assert reason in str(error)
    assert str(error).startswith(f"{path}: ")
    assert error.source == str(path)


def test_a_broken_file_shows_nothing_of_its_content(tmp_path: Path) -> None:
    for content in ('{"dsn": "hunter2" x', b'{"dsn": "hunter2\xff"}'):
        error = refusal(file(tmp_path, content))
        assert "hunter2" not in str(error)
        assert error.__cause__ is None
        assert error.__context__ is None or "hunter2" not in repr(error.__context__.__dict__)


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "there is no such file" in str(refusal(tmp_path / "none.json"))
    assert f"there is no such file in {tmp_path}" in str(refusal("none.json"))
    assert "Is a directory" in str(refusal(tmp_path))
    assert "not a path" in str(refusal("a\0b"))
    assert "pass json.loads(text)" in str(refusal('{"meta": {"type": "memory"}}'))
    assert "expected a BackendConfig, a mapping or the path of a JSON file, got int" in str(refusal(3))
    assert "got null" in str(refusal(None))


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    text = '{"meta": {"type": "tiny", "options": {"place": "a", "place": "b"}}, "blob": {"type": "memory"}, "blob": {}}'
    paths = [problem.path for problem in refusal(file(tmp_path, text)).problems]
    assert "meta.options.place" in paths
    assert "blob" in paths


def test_top_level_keys_of_other_tools_are_left_alone(tmp_path: Path) -> None:
    tree = {"$schema": "./specstar.json", "x-note": {"a": "$not expanded"}, "version": 1}
    assert resolve_config(file(tmp_path, json.dumps(tree)), environ={}).mq is None
    assert "$schema: expected str, got int" in str(refusal({"$schema": 1}))
    assert "meta.x-note: unknown key" in str(refusal({"meta": {"type": "memory", "x-note": 1}}))
    with pytest.raises(ConfigError, match="X-note: unknown key"):
        resolve_config({"X-note": 1})


def test_strings_are_expanded_in_mappings_and_files_but_not_in_objects(tmp_path: Path) -> None:
    options = {"place": "${PLACE}", "port": "${PORT}", "fast": "$FAST", "limit": "${LIMIT:-}${LIMIT:-4}"}
    environ = {"PLACE": "7", "PORT": "80", "FAST": "true"}
    tree = {"meta": {"type": "tiny", "options": options}}
    for source in (tree, file(tmp_path, json.dumps(tree))):
        found = resolve_config(source, environ={**environ, "LIMIT": ""}).meta.options
        assert (found.place, found.port, found.fast, found.limit) == ("7", 80, True, 4)
        assert type(found.place) is str
    struct = BackendConfig(meta=BackendBinding(type="tiny", options={"place": "${PLACE}"}))
    assert resolve_config(struct, environ=environ).meta.options.place == "${PLACE}"
    mixed = {"meta": BackendBinding(type="tiny", options={"place": "${PLACE}"})}
    assert resolve_config(mixed, environ=environ).meta.options.place == "${PLACE}"


def test_keys_are_never_expanded() -> None:
    tree = {
        "connections": {"$A": {"type": "tiny", "options": {"place": "p", "extra": {"${B}": 1}}}},
        "meta": {"use": "$$A"},
    }
    assert resolve_config(tree, environ={}).meta.options.extra == {"${B}": 1}


def test_an_expanded_string_is_not_parsed_again() -> None:
    tree = {"meta": {"type": "tiny", "options": {"place": "p", "extra": {"a": "${J}", "n": "${N}"}, "badge": "$J"}}}
    options = resolve_config(tree, environ={"J": '{"x": 1}', "N": "5"}).meta.options
    assert options.extra == {"a": '{"x": 1}', "n": "5"}
    assert type(options.extra["n"]) is str
    refused = {"meta": {"type": "tiny", "options": {"place": "p", "sizes": "${SIZES}"}}}
    assert "meta.options.sizes: expected array, got str" in str(refusal(refused, {"SIZES": "[1, 2]"}))
    assert str(refusal({"connections": "$ALL"}, {"ALL": "{}"})) == "connections: expected object, got str"


def test_only_strings_from_the_environment_are_coerced() -> None:
    literal = {"meta": {"type": "tiny", "options": {"place": "p", "port": "80", "fast": "true"}}}
    problems = [str(problem) for problem in refusal(literal).problems]
    assert problems == ["meta.options.port: expected int, got str", "meta.options.fast: expected bool, got str"]
    nested = {"meta": {"type": "tiny", "options": {"place": "p", "sizes": [1, "$N"], "corner": {"x": "$N"}}}}
    options = resolve_config(nested, environ={"N": "5"}).meta.options
    assert (options.sizes, options.corner.x) == ([1, 5], 5)


def test_a_value_of_the_environment_out_of_its_range_is_told_the_range() -> None:
    disk = {"type": "disk", "options": {"rootdir": "r", "reader_threads": "${N}"}}
    for value, reason in (("65", "expected int <= 64"), ("0", "expected int >= 1"), ("many", "expected int, got str")):
        (problem,) = refusal({"meta": disk}, {"N": value}).problems
        assert str(problem) == f"meta.options.reader_threads: {reason}"
    literal = {"type": "disk", "options": {"rootdir": "r", "reader_threads": 65.0}}
    (problem,) = refusal({"meta": literal}).problems
    assert str(problem) == "meta.options.reader_threads: expected int <= 64"


def test_names_and_switches_may_come_from_the_environment() -> None:
    tree = {
        "version": "${V:-1}",
        "defaults": {"presigned_url_expiry": "${E:-60}", "encoding": "${ENC:-msgpack}"},
        "connections": {"one": {"type": "$TYPE", "options": {"place": "p"}, "enabled": "${ON:-true}"}},
        "meta": {"use": "${NAME:-one}"},
        "mq": {"type": "tinymq", "options": {"place": "p"}, "required": "${OFF:-false}"},
    }
    found = resolve_config(tree, environ={"TYPE": "tiny"})
    assert found.meta.type == "tiny"
    assert type(found.meta.connection) is str
    assert found.defaults.presigned_url_expiry == 60
    assert found.meta.options.encoding is Encoding.msgpack


def test_values_that_are_no_text_or_number_are_refused() -> None:
    options = {"place": "a\0b", "badge": "\ud800", "ratio": float("nan"), "extra": {1: 2}, "port": object()}
    found = {
        problem.path: problem.reason for problem in refusal({"meta": {"type": "tiny", "options": options}}).problems
    }
    assert found == {
        "meta.options.place": "contains a NUL character",
        "meta.options.badge": "contains half a surrogate pair, which is no text",
        "meta.options.ratio": "expected a finite number",
        "meta.options.extra": "expected str as key, got int",
        "meta.options.port": "expected int, got object",
    }
    tree = {"meta": {"type": "tiny", "options": {"place": "$P", "ratio": "$R"}}}
    error = refusal(tree, {"P": "p\udc80", "R": "inf"})
    assert {problem.path for problem in error.problems} == {"meta.options.place", "meta.options.ratio"}


def test_a_cyclic_mapping_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    assert "nested deeper than 64 levels" in str(
        refusal({"meta": {"type": "tiny", "options": {"place": "p", "extra": loop}}})
    )


def test_paths_and_enums_of_python_are_taken() -> None:
    options = {"place": PurePosixPath("/srv/data"), "encoding": Encoding.msgpack}
    struct = BackendConfig(
        connections={"c": ConnectionProfile(type="tiny", options=options)}, meta=BackendBinding(use="c")
    )
    found = resolve_config(struct).meta.options
    assert (found.place, found.encoding) == ("/srv/data", Encoding.msgpack)


def test_expansion_of_a_whole_file_is_bounded() -> None:
    tree = {"meta": {"type": "tiny", "options": {"place": "p", "extra": {str(n): "$BIG" for n in range(100)}}}}
    assert "expands to more than" in str(refusal(tree, {"BIG": "x" * 500_000}))


@pytest.mark.parametrize("environ", [{"POSTGRES_DSN": "postgresql://u:hunter2@h/d"}, {}])
def test_a_similar_variable_is_suggested_by_name_only(environ: dict[str, str]) -> None:
    error = refusal({"meta": {"type": "tiny", "options": {"place": "$POSTGRES_DNS"}}}, environ)
    [problem] = error.problems
    assert problem.suggestion == ("POSTGRES_DSN" if environ else None)
    assert "hunter2" not in str(error)


def test_a_variable_that_is_empty_is_not_suggested_for_itself() -> None:
    environ = {"DATA_DIR": "", "DATA_DIRS": "x"}
    [problem] = refusal({"meta": {"type": "tiny", "options": {"place": "${DATA_DIR:?}"}}}, environ).problems
    assert (problem.reason, problem.suggestion) == ("required environment variable DATA_DIR is not set or empty", None)


@pytest.mark.parametrize(
    "options",
    [
        {"place": "p", "password": "pa$hunter2"},
        {"place": "p", "password": "$hunter2"},
        {"place": "p", "password": "pa${hunter2-!"},
        {"place": "p", "extra": {"api_key": ["pa$hunter2"]}},
        {"place": "postgresql://u:pa$hunter2@h/d"},
        {"place": "host=h password=pa$hunter2 user=u"},
    ],
)
def test_a_dollar_in_a_secret_is_told_by_its_place(options: dict[str, Any]) -> None:
    error = refusal({"meta": {"type": "tiny", "options": options}}, {"hunter": "x"})
    assert "hunter" not in str(error)
    assert "character" in str(error)


@pytest.mark.parametrize("text", ["${DB_PASSWORD}", "postgresql://u:${DB_PASSWORD}@h/d"])
def test_a_variable_that_is_meant_is_named_in_a_secret_too(text: str) -> None:
    error = refusal({"meta": {"type": "tiny", "options": {"place": "p", "password": text}}}, {})
    assert "DB_PASSWORD is not set" in str(error)


def test_nothing_is_searched_for_secrets_while_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def look(name: str) -> bool:
        looked.append(name)
        return True

    monkeypatch.setattr(loading, "looks_secret", look)
    tree = {"meta": {"type": "tiny", "options": {"place": "${PLACE}", "port": 7}}}
    resolve_config(tree, environ={"PLACE": "here"})
    assert looked == []
    refusal(tree)
    assert looked
