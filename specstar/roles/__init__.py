"""The four roles as abstract classes whose docstrings are the contract: meta, resource, blob, mq.

`tests/conformance` holds every backend to them. Backends never widen the contract.
"""

from __future__ import annotations

from specstar.roles.blob import BlobReader, BlobStore, BlobWriter, UploadSession
from specstar.roles.meta import MetaStore, MetaWrite
from specstar.roles.mq import Consumer, DeadLetter, Delivery, Message, MessageQueue, MessageQueueFactory
from specstar.roles.records import BlobInfo, ResourceMeta, RevisionInfo, RevisionStatus, StoredRevision
from specstar.roles.resource import PayloadKey, ResourceStore, StoredPayload
from specstar.roles.storage import Advance, AdvancingStorage, Found, ModelSpec, Storage, StorageWrite

__all__ = [
    "Advance",
    "AdvancingStorage",
    "BlobInfo",
    "BlobReader",
    "BlobStore",
    "BlobWriter",
    "Consumer",
    "DeadLetter",
    "Delivery",
    "Found",
    "Message",
    "MessageQueue",
    "MessageQueueFactory",
    "MetaStore",
    "MetaWrite",
    "ModelSpec",
    "PayloadKey",
    "ResourceMeta",
    "ResourceStore",
    "RevisionInfo",
    "RevisionStatus",
    "Storage",
    "StorageWrite",
    "StoredPayload",
    "StoredRevision",
    "UploadSession",
]
