"""Numbers that JSON does not have."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

__all__ = ["refuse_nonfinite"]


# How MessagePack begins a number of 64 bits whose exponent is all ones: https://github.com/msgpack/msgpack/blob/master/spec.md
_MAY_BE_NONFINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]").search


def refuse_nonfinite(encoded: bytes, value: Any, *, advice: str = "") -> None:
    """Raise `ValueError` if a value holds NaN or infinity: its JSON has null for them, and so says something else.

    `encoded` is the JSON of the value. `advice` ends the message.
    """
    if b"null" in encoded and _may_hold_one(value):
        _look_at(msgspec.to_builtins(value, str_keys=True), advice)


def _may_hold_one(value: Any) -> bool:
    """Not whether the value differs from what is read back: its class may have an equality of its own."""
    try:
        return _MAY_BE_NONFINITE(msgspec.msgpack.encode(value)) is not None
    except (OverflowError, TypeError, ValueError, msgspec.MsgspecError):
        return True  # it holds what MessagePack has not


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
