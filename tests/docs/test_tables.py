"""The tables of the documentation name all there is: options with their defaults, job options, errors."""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from specstar import errors
from specstar.backends.registry import find_provider
from specstar.message_queue.options import JobOptions

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
PAGES = {
    "memory": ("embedded.md", "memory"),
    "disk": ("embedded.md", "disk"),
    "simple": ("embedded.md", "simple"),
    "postgres": ("postgres.md", "Options"),
    "s3": ("s3.md", "Options"),
    "rabbitmq": ("rabbitmq.md", "Options"),
}
# Defaults that a table says in words.
SAID = {
    ("s3", "blob_bucket"): "`bucket`",
    ("s3", "access_key_id"): "credential chain",
    ("s3", "secret_access_key"): "credential chain",
    ("s3", "endpoint_url"): "AWS",
    ("rabbitmq", "consumer_timeout_seconds"): "the broker's",
}


def rows(page: str, heading: str) -> dict[str, str]:
    """From each name in the first column of the section's tables to the second column."""
    text = (DOCS / page).read_text(encoding="utf-8")
    section = re.split(rf"^## {re.escape(heading)}$", text, maxsplit=1, flags=re.MULTILINE)[1]
    found = {}
    for first, second in re.findall(r"^\| (`[^|]*) \| ([^|]*) \|", section.split("\n## ")[0], re.MULTILINE):
        found.update(dict.fromkeys(re.findall(r"`([^`]+)`", first), second.strip()))
    return found


def written(default: Any) -> set[str]:
    """The ways in which a table may write a default."""
    if default is msgspec.NODEFAULT:
        return {"required"}
    if isinstance(default, bool):
        return {str(default).lower(), f"`{str(default).lower()}`"}
    if isinstance(default, enum.Enum | str):
        return {f"`{default}`", f'`"{default}"`', str(default)}
    if isinstance(default, int | float):
        ways = {f"{default:g}", f"{default:,.0f}"} if default == int(default) else {f"{default}"}
        for shift, unit in ((10, "KiB"), (20, "MiB")):
            if isinstance(default, int) and default >> shift << shift == default:
                ways.add(f"{default >> shift} {unit}")
        return ways
    return {f"`{default}`"}


@pytest.mark.parametrize("kind", PAGES)
def test_every_option_of_a_backend_is_in_its_table_with_its_default(kind: str) -> None:
    provider = find_provider(kind)
    assert provider is not None
    table = rows(*PAGES[kind])
    for field in msgspec.structs.fields(provider.options_type):
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        expected = {SAID[kind, field.name]} if (kind, field.name) in SAID else written(default)
        # "`defaults.encoding`, `json`": the last is the default's own default.
        said = {table[field.name], table[field.name].rpartition(", ")[2], table[field.name].partition(", ")[2]}
        assert said & expected or table[field.name].startswith("`defaults."), (field.name, table[field.name], expected)


def test_every_option_of_a_job_is_in_its_table() -> None:
    assert set(rows("jobs.md", "Options")) == set(JobOptions.__annotations__)


def test_every_error_is_explained() -> None:
    text = (DOCS / "reliability.md").read_text(encoding="utf-8")
    bases = {"SpecstarError", "ConfigProblem"}
    assert [name for name in errors.__all__ if f"`{name}`" not in text and name not in bases] == []
