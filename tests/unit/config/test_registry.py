"""Registering backend types by hand."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from specstar import register_backend_provider
from specstar.backends.registry import find_provider, provider_types
from specstar.config import resolve_config
from specstar.errors import ConfigError


def test_a_registered_type_is_found_and_resolved() -> None:
    provider = find_provider("tiny")
    assert provider is not None
    assert "tiny" in provider_types()
    assert resolve_config({"meta": {"type": "tiny", "options": {"place": "p"}}}).meta.provider is provider


def test_a_name_is_taken_once_unless_it_is_to_be_replaced() -> None:
    first = find_provider("tiny")
    assert first is not None
    register_backend_provider(first)
    second: Any = type(first)()
    with pytest.raises(ConfigError, match="'tiny' is registered already; pass replace=True"):
        register_backend_provider(second)
    register_backend_provider(second, replace=True)
    assert resolve_config({"meta": {"type": "tiny", "options": {"place": "p"}}}).meta.provider is second


def test_a_built_in_type_is_not_replaced_by_accident() -> None:
    first = find_provider("tiny")

    class Impostor(type(first)):  # type: ignore[misc]
        type: ClassVar[str] = "memory"

    with pytest.raises(ConfigError, match="'memory' is registered already"):
        register_backend_provider(Impostor())
