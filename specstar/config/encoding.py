"""How payloads are written down."""

from __future__ import annotations

import enum

__all__ = ["Encoding"]


class Encoding(enum.StrEnum):
    """The format of stored payloads. Each revision records its own, so a change of setting leaves old data readable."""

    json = "json"
    msgpack = "msgpack"
