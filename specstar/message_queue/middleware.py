"""What goes with all jobs of a spec: headers that travel with each, and what its handler runs inside of."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from specstar.checks import checked_text
from specstar.errors import InvalidInputError, LimitExceededError
from specstar.message_queue.job import Job

__all__ = ["MAX_HEADERS_BYTES", "MAX_NAME_BYTES", "JobMiddleware", "headers_of", "surrounded"]

MAX_HEADERS_BYTES = 16 << 10
"""Of all headers of one job together, as JSON."""
MAX_NAME_BYTES = 255


class JobMiddleware:
    """Tracing, logging or error reporting for all jobs of a spec: `spec.add_job_middleware(YourMiddleware())`.

    A subclass overrides one method or both. Neither may block: they run on event loops, too.
    """

    def sending(self, queue: str, /) -> Mapping[str, str] | None:
        """Headers for a job that is sent to `queue`, whose handler finds them as `job.headers`.

        Called in the context of whoever sends (its context variables are there); once for all of one `enqueue_many`.
        What it raises, `enqueue` raises. A periodic job is sent by a worker, and without headers if this fails.
        """
        return None

    def running(self, job: Job[Any], /) -> AbstractContextManager[object]:
        """What each attempt at a job runs inside of, on the event loop of an async handler or in the thread of a plain one.

        It is left by what the handler raises. What it raises itself fails the attempt; an error that it suppresses does not.
        """
        return contextlib.nullcontext()


def headers_of(
    queue: str, given: Mapping[str, str] | None, middleware: tuple[JobMiddleware, ...]
) -> dict[str, str] | None:
    """The headers of a new job: those of the middleware, in the order in which it was added, then those that were given.

    Raises `InvalidInputError` for what are no headers, `LimitExceededError` for too many.
    """
    if given is None and not middleware:
        return None
    headers: dict[str, str] = {}
    for each in (*(one.sending(queue) for one in middleware), given):
        if each is None:
            continue
        if not isinstance(each, Mapping):
            message = f"headers are a mapping of text to text, not {type(each).__name__}"
            raise InvalidInputError(message, field="headers")
        headers.update(each)
    for name, value in headers.items():
        if not checked_text(name, field="headers", most_bytes=MAX_NAME_BYTES):
            raise InvalidInputError("a header has an empty name", field="headers")
        checked_text(value, field="headers")
    size = len(msgspec.json.encode(headers))
    if size > MAX_HEADERS_BYTES:
        message = f"the headers have {size} bytes; at most {MAX_HEADERS_BYTES} are allowed"
        raise LimitExceededError(message, field="headers", limit=MAX_HEADERS_BYTES, actual=size)
    return headers or None


def surrounded(
    handler: Callable[[Job[Any]], Any], middleware: tuple[JobMiddleware, ...], *, is_async: bool
) -> Callable[[Job[Any]], Any]:
    """The handler inside of all middleware, the first that was added outermost."""
    if not middleware:
        return handler

    def inside(job: Job[Any]) -> contextlib.ExitStack:
        with contextlib.ExitStack() as stack:
            for each in middleware:
                stack.enter_context(each.running(job))
            return stack.pop_all()

    async def rest(job: Job[Any], result: Awaitable[Any]) -> Any:
        with inside(job):
            return await result

    async def call(job: Job[Any]) -> Any:
        with inside(job):
            return await handler(job)

    def call_plain(job: Job[Any]) -> Any:
        result: Any = None
        with inside(job):
            result = handler(job)
        # A plain decorator around an async handler: the thread only makes what is awaited.
        return rest(job, result) if inspect.isawaitable(result) else result

    return call if is_async else call_plain
