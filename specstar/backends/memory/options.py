"""What can be set for the memory backend."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from specstar.config.encoding import Encoding

__all__ = ["MemoryOptions"]


class MemoryOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the backend type `memory`."""

    encoding: Annotated[
        Encoding, Meta(description="Format of new payloads, json or msgpack. Default: that of `defaults`, else json.")
    ] = Encoding.json
