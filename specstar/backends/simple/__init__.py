"""The `simple` backend type: message queues in the memory of this process."""

from __future__ import annotations

from specstar.backends.simple.options import SimpleOptions
from specstar.backends.simple.provider import SimpleProvider

__all__ = ["SimpleOptions", "SimpleProvider"]
