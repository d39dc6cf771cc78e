"""What unfinished uploads left behind: found by age, by the server's clock, and removed; never what is still being sent."""

from __future__ import annotations

from typing import Any

from specstar.backends.s3.blob_layout import BlobLayout
from specstar.backends.s3.blob_uploads import Uploads
from specstar.backends.s3.connection import S3Connection
from specstar.backends.s3.errors import ObjectMissing
from specstar.backends.s3.multipart import abort_upload
from specstar.backends.s3.resource_store import delete_objects, object_pages, server_clock

__all__ = ["collect_uploads"]


async def collect_uploads(
    connection: S3Connection, layout: BlobLayout, sessions: Uploads, *, older_than_seconds: float
) -> int:
    """Remove upload sessions, temporary objects and multipart uploads whose last sign of life is older than this.

    Not those that this process works on, nor sessions whose URL a client may still use.
    """
    now = await server_clock(connection, layout.bucket, layout.uploads)
    limit = now + 1.0 - older_than_seconds
    return await _sessions(connection, layout, sessions, limit, now) + await _multiparts(connection, layout, limit)


async def _sessions(connection: S3Connection, layout: BlobLayout, sessions: Uploads, limit: float, now: float) -> int:
    newest: dict[str, float] = {}
    async for page in object_pages(connection, layout.bucket, layout.uploads):
        for entry in page:
            upload_id = layout.session_of(entry["Key"])
            if upload_id is not None:
                newest[upload_id] = max(newest.get(upload_id, 0.0), entry["LastModified"].timestamp())
    removed = 0
    for upload_id in [upload_id for upload_id, time in newest.items() if time <= limit]:
        if await sessions.may_come(connection, upload_id, now):
            continue
        # Asked last: it may have been taken up since the list was made.
        if upload_id in sessions.in_hand or any(layout.session_of(key) == upload_id for key in connection.moving):
            continue
        folder = f"{layout.uploads}{upload_id}/"
        held = [entry async for page in object_pages(connection, layout.bucket, folder) for entry in page]
        if any(entry["LastModified"].timestamp() > limit for entry in held):
            continue  # another process has, and this one may have stood still for long
        removed += 1
        await delete_objects(connection, layout.bucket, [entry["Key"] for entry in held])
    return removed


async def _multiparts(connection: S3Connection, layout: BlobLayout, limit: float) -> int:
    removed = 0
    marker: dict[str, Any] = {}
    while True:
        answer = await connection.call("list_multipart_uploads", Bucket=layout.bucket, Prefix=layout.root, **marker)
        for entry in answer.get("Uploads", []):
            key, upload_id = entry["Key"], entry["UploadId"]
            ours = layout.is_blob(key) or layout.session_of(key) is not None
            if not ours or (key, upload_id) in connection.uploads or entry["Initiated"].timestamp() > limit:
                continue
            if await _last_part(connection, layout, entry) <= limit:
                await abort_upload(connection, layout.bucket, key, upload_id)
                removed += 1
        if not answer.get("IsTruncated"):
            return removed
        marker = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}


async def _last_part(connection: S3Connection, layout: BlobLayout, entry: dict[str, Any]) -> float:
    """When the newest part of an upload arrived: a large one may be in progress for long."""
    newest = entry["Initiated"].timestamp()
    marker: dict[str, Any] = {}
    while True:
        try:
            answer = await connection.call(
                "list_parts", Bucket=layout.bucket, Key=entry["Key"], UploadId=entry["UploadId"], **marker
            )
        except ObjectMissing:
            return float(newest)
        newest = max([newest, *(part["LastModified"].timestamp() for part in answer.get("Parts", []))])
        if not answer.get("IsTruncated"):
            return float(newest)
        marker = {"PartNumberMarker": answer["NextPartNumberMarker"]}
