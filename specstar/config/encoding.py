"""How payloads are written down."""

from __future__ import annotations

import enum

import msgspec

__all__ = ["UNDECODABLE", "Encoding"]

UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError)
"""What msgspec raises for damaged bytes of our own records: its own errors, and one that it lets through."""


class Encoding(enum.StrEnum):
    """The format of stored payloads. Each revision records its own, so a change of setting leaves old data readable."""

    json = "json"
    msgpack = "msgpack"
