"""What every blob store says of uploads that cannot go on."""

from __future__ import annotations

from specstar.errors import BlobIntegrityError, BlobNotFoundError, UsageError, shown

__all__ = [
    "being_finalized",
    "finalized_already",
    "no_session",
    "not_announced",
    "nothing_uploaded",
    "writer_has_ended",
]


def no_session(upload_id: str) -> BlobNotFoundError:
    """Nobody knows such a session."""
    return BlobNotFoundError(upload_id, message=f"there is no upload session {shown(upload_id)}")


def nothing_uploaded(upload_id: str) -> BlobNotFoundError:
    """A session without bytes was to be finalized."""
    return BlobNotFoundError(
        upload_id, message=f"nothing was uploaded in session {shown(upload_id)}, or it was aborted"
    )


def not_announced(upload_id: str, *, announced: int, received: int) -> BlobIntegrityError:
    """The bytes of a session are more or fewer than was announced."""
    return BlobIntegrityError(f"upload {shown(upload_id)}: {announced} bytes were announced, {received} received")


def being_finalized(upload_id: str) -> UsageError:
    """The session takes no more bytes: it is being turned into a blob."""
    return UsageError(f"upload {shown(upload_id)} is being finalized")


def finalized_already(upload_id: str) -> UsageError:
    """The session takes no more bytes: it is a blob."""
    return UsageError(f"upload {shown(upload_id)} is finalized already")


def writer_has_ended() -> UsageError:
    """A writer was used after `commit` or `abort`."""
    return UsageError("this upload has ended: create another one")
