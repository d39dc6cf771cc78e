"""Configurations with a contestant's own folder filled in: the standard library only."""

from __future__ import annotations

from typing import Any

__all__ = ["filled_in"]


def filled_in(backend: Any, folder: str) -> Any:
    """The configuration with `{folder}` replaced."""
    if isinstance(backend, dict):
        return {key: filled_in(value, folder) for key, value in backend.items()}
    return backend.replace("{folder}", folder) if isinstance(backend, str) else backend
