"""The same surface, blocking: `from specstar.sync import SpecStar, spec`.

The classes are generated from the asynchronous ones (tools/generate_sync.py), so they cannot drift apart.
"""

from __future__ import annotations

from specstar.sync._generated import BlobStream, JobQueue, ResourceManager
from specstar.sync.facade import BlobManager, SpecStar, spec

__all__ = ["BlobManager", "BlobStream", "JobQueue", "ResourceManager", "SpecStar", "spec"]
