"""A service for files (FastAPI): uploads and downloads are streamed, ranges and ETags honoured, health told."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import msgspec
from fastapi import FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from specstar import SpecStar
from specstar.errors import BackendUnavailable, InvalidInputError, ResourceNotFoundError, RevisionConflictError

MOST_BYTES = 100 << 20


class File(msgspec.Struct):
    name: str
    file_id: str
    tags: list[str] = []


spec = SpecStar()
files = spec.add_model(File, indexed_fields=["name", "file_id", "tags"])
spec.configure(backend=os.environ.get("FILES_BACKEND", "backend.json"))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with spec:
        yield


app = FastAPI(lifespan=lifespan)
STATUSES: dict[type[Exception], int] = {
    ResourceNotFoundError: 404,  # ResourceDeletedError is one
    RevisionConflictError: 412,
    InvalidInputError: 422,
    BackendUnavailable: 503,
}


async def refuse(request: Request, error: Exception) -> Response:
    status = next(status for kind, status in STATUSES.items() if isinstance(error, kind))
    if status == 412 and "if-match" not in request.headers:
        status = 409  # others were faster again and again
    # What a server says of its own backends is for the log.
    return JSONResponse({"error": "try again later" if status == 503 else str(error)}, status)


for kind in STATUSES:
    app.add_exception_handler(kind, refuse)


async def bounded(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """An upload that is broken off here, or by the client, leaves nothing behind."""
    size = 0
    async for chunk in body:
        size += len(chunk)
        if size > MOST_BYTES:
            raise HTTPException(413)
        yield chunk


@app.post("/files/{name}", status_code=201)
async def upload(name: str, request: Request, content_type: Annotated[str | None, Header()] = None) -> dict[str, str]:
    blob = await spec.blobs.put(bounded(request.stream()), content_type=content_type or "application/octet-stream")
    info = await files.create(File(name, blob.file_id))
    return {"id": info.resource_id}


@app.get("/files/{resource_id}")
async def read(resource_id: str, response: Response) -> dict[str, object]:
    found = await files.get(resource_id)
    response.headers["ETag"] = f'"{found.revision_id}"'
    return {"name": found.data.name, "tags": found.data.tags}


@app.patch("/files/{resource_id}")
async def change(
    resource_id: str, patch: dict[str, object], if_match: Annotated[str | None, Header()] = None
) -> Response:
    """Without If-Match the patch is applied to whatever is there."""
    expected = None if if_match in (None, "*") else if_match.strip('"')
    info = await files.patch(resource_id, patch, expected_revision_id=expected)
    return Response(status_code=204, headers={"ETag": f'"{info.revision_id}"'})


@app.get("/files/{resource_id}/content")
async def download(resource_id: str, range: Annotated[str | None, Header()] = None) -> Response:
    blob = await spec.blobs.stat((await files.get(resource_id)).data.file_id)
    start, end, headers = 0, blob.size, {"Accept-Ranges": "bytes", "ETag": f'"{blob.file_id}"'}
    if wanted := re.fullmatch(r"bytes=(\d*)-(\d*)", range or ""):
        first, last = wanted.groups()
        start = int(first) if first else max(blob.size - int(last or 0), 0)
        end = min(int(last) + 1, blob.size) if first and last else blob.size
        if start >= end:
            return Response(status_code=416, headers={"Content-Range": f"bytes */{blob.size}"})
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{blob.size}"
    headers["Content-Length"] = str(end - start)

    async def body() -> AsyncIterator[bytes]:
        async with spec.blobs.open(blob.file_id, start=start, end=end) as chunks:
            async for chunk in chunks:
                yield chunk

    return StreamingResponse(body(), 206 if wanted else 200, headers, media_type=blob.content_type)


@app.get("/health")
async def health(response: Response) -> dict[str, bool]:
    reports = await spec.check(timeout=3)
    response.status_code = 200 if all(report.ok for report in reports) else 503
    return {report.role: report.ok for report in reports}
