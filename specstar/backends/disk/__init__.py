"""The disk backend: resources, their search index and blobs under one folder."""

from __future__ import annotations

from specstar.backends.disk.options import DiskOptions
from specstar.backends.disk.provider import DiskProvider

__all__ = ["DiskOptions", "DiskProvider"]
