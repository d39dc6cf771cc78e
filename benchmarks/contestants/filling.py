"""Settings with a contestant's own folder and the servers' addresses filled in: the standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["filled_in"]


def filled_in(value: Any, setting: Mapping[str, Any]) -> Any:
    """The value with `{folder}` and `{VARIABLE}` replaced."""
    if isinstance(value, dict):
        return {key: filled_in(inner, setting) for key, inner in value.items()}
    if not isinstance(value, str):
        return value
    for name, found in {"folder": setting["folder"], **setting.get("environment", {})}.items():
        value = value.replace(f"{{{name}}}", found)
    return value
