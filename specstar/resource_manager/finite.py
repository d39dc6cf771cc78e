"""Numbers that JSON does not have."""

from __future__ import annotations

import math
from typing import Any

import msgspec

__all__ = ["refuse_nonfinite"]


def refuse_nonfinite(encoded: bytes, value: Any, decoded: Any, *, advice: str = "") -> None:
    """Raise `ValueError` if a value holds NaN or infinity: its JSON has null for them, and so says something else.

    `encoded` is the JSON of the value, `decoded` what becomes of it again. Cheap where both say that nothing is amiss.
    `advice` ends the message.
    """
    if b"null" in encoded and decoded != value:
        _look_at(msgspec.to_builtins(value, str_keys=True), advice)


def _look_at(value: Any, advice: str) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"JSON has no {value}{advice}")
    elif isinstance(value, dict):
        for item in value.values():
            _look_at(item, advice)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            _look_at(item, advice)
