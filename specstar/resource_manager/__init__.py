"""Resources and their managers, and the storage factories of the lower-level set-up.

Names are loaded on first use: managers need no factory, and factories need no manager.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from specstar.lazy import lazy_names

if TYPE_CHECKING:
    from specstar.resource_manager.factories import (
        BoundStorageFactory,
        DiskStorageFactory,
        MemoryStorageFactory,
        PostgresDiskS3StorageFactory,
        PostgresDiskStorageFactory,
        PostgresS3StorageFactory,
        PostgresStorageFactory,
        S3StorageFactory,
        StorageFactory,
    )
    from specstar.resource_manager.manager import ResourceManager
    from specstar.resource_manager.resource import Page, Resource

__all__ = [
    "BoundStorageFactory",
    "DiskStorageFactory",
    "MemoryStorageFactory",
    "Page",
    "PostgresDiskS3StorageFactory",
    "PostgresDiskStorageFactory",
    "PostgresS3StorageFactory",
    "PostgresStorageFactory",
    "Resource",
    "ResourceManager",
    "S3StorageFactory",
    "StorageFactory",
]

_HOMES = dict.fromkeys(__all__, ".factories") | {
    "Page": ".resource",
    "Resource": ".resource",
    "ResourceManager": ".manager",
}

if not TYPE_CHECKING:  # else checkers would take any misspelt name for one of type Any
    __getattr__ = lazy_names(__name__, _HOMES)
