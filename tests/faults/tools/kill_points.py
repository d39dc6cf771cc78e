"""Points in the code at which a process kills itself: between two steps that no timer would hit."""

from __future__ import annotations

import functools
import inspect
import os
import signal
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

__all__ = ["POINTS", "die", "die_at"]


class _Point(NamedTuple):
    """Right before or right after a method."""

    module: str
    name: str
    after: bool


_DISK, _S3, _JOBS = "specstar.backends.disk", "specstar.backends.s3", "specstar.message_queue"
POINTS = {
    # Payloads and blobs.
    "disk: payload file written, no name yet": _Point(f"{_DISK}.durable", "FolderTree.make", after=False),
    "disk: payload there, no row": _Point(f"{_DISK}.payloads", "PayloadFileLane.write", after=True),
    "disk: row gone, payload still there": _Point(f"{_DISK}.payloads", "PayloadFileLane.delete", after=False),
    "disk: upload complete, no blob": _Point(f"{_DISK}.uploads", "Uploads._join", after=False),
    "s3: payload there, no row": _Point(f"{_S3}.resource_store", "S3ResourceStore.put", after=True),
    "s3: row gone, payload still there": _Point(f"{_S3}.resource_store", "S3ResourceStore.delete_many", after=False),
    "s3: parts there, no object": _Point(f"{_S3}.multipart", "MultipartUpload.complete", after=False),
    "s3: blob there, temporary object too": _Point(f"{_S3}.blob_writer", "S3BlobWriter._remove", after=False),
    # Jobs.
    "job taken, not marked": _Point(f"{_JOBS}.stored_state", "StoredJobState.mark", after=False),
    "job marked, handler not begun": _Point(f"{_JOBS}.stored_state", "StoredJobState.mark", after=True),
    "handler done, no state": _Point(f"{_JOBS}.stored_state", "StoredJobState.settle", after=False),
    "state there, no ack": _Point(f"{_JOBS}.stored_state", "StoredJobState.settle", after=True),
    "retry sent, no ack": _Point("specstar.backends.rabbitmq.queue", "RabbitMQQueue.send_retry", after=True),
    "dead letter sent, no ack": _Point("specstar.backends.rabbitmq.queue", "RabbitMQQueue.send_dead", after=True),
}


def die() -> None:
    """End as by `kill -9`: nothing is closed, flushed or cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(point: str, survive: int = 0, *, before: Callable[..., None] = lambda *_: None) -> None:
    """Have this process die at a point, after surviving it some times.

    `before` is called right before it dies, with the arguments of the method.
    """
    module, name, after = POINTS[point]
    holder: Any = import_module(module)
    *path, method = name.split(".")
    for part in path:
        holder = getattr(holder, part)
    original = getattr(holder, method)
    passages = 0

    def pass_by(arguments: tuple[Any, ...]) -> None:
        nonlocal passages
        passages += 1
        if passages > survive:
            before(*arguments)
            die()

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def watched(*arguments: Any, **options: Any) -> Any:
            if not after:
                pass_by(arguments)
            result = await original(*arguments, **options)
            if after:
                pass_by(arguments)
            return result

        setattr(holder, method, watched)
        return

    @functools.wraps(original)
    def watched_in_thread(*arguments: Any, **options: Any) -> Any:
        if not after:
            pass_by(arguments)
        result = original(*arguments, **options)
        if after:
            pass_by(arguments)
        return result

    setattr(holder, method, watched_in_thread)
