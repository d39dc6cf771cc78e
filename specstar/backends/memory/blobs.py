"""Blobs and upload sessions as they lie in memory."""

from __future__ import annotations

from datetime import datetime

from specstar.roles import BlobInfo

__all__ = ["BlobTable", "PendingUpload"]


class PendingUpload:
    """An upload session: the chunks so far, or the blob that they became."""

    __slots__ = ("busy", "chunks", "content_type", "finished", "received", "size", "touched_time")

    def __init__(self, content_type: str, size: int | None, created_time: datetime) -> None:
        self.content_type: str = content_type
        self.size: int | None = size
        self.touched_time: datetime = created_time
        self.chunks: list[bytes] = []
        self.received: int = 0
        self.finished: BlobInfo | None = None
        self.busy: int = 0


class BlobTable(dict[str, tuple[BlobInfo, bytes]]):
    """Blobs by their id, and the sessions that are under way."""

    def __init__(self) -> None:
        super().__init__()
        self.uploads: dict[str, PendingUpload] = {}
