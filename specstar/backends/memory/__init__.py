"""The memory backend: resources, their search index and blobs in this process, gone with it."""

from __future__ import annotations

from specstar.backends.memory.options import MemoryOptions
from specstar.backends.memory.provider import MemoryProvider

__all__ = ["MemoryOptions", "MemoryProvider"]
