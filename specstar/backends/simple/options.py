"""The options of the `simple` backend type."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["SimpleOptions"]


class SimpleOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The in-process message queue."""

    max_retries: Annotated[
        int, Meta(ge=0, le=1000, description="How often a failed job is tried again, unless the job says otherwise.")
    ] = 3
    retry_delay_seconds: Annotated[
        float, Meta(ge=0, le=31_536_000, description="Seconds before a failed job is tried again.")
    ] = 1.0
    max_depth: Annotated[
        int,
        Meta(
            ge=1,
            description="The most messages a queue keeps in memory; publishing more is refused until some are done.",
        ),
    ] = 1_000_000
