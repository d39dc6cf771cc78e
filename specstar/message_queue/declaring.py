"""What `@spec.job(...)` with options gives: a decorator, which keeps the types of the payload and the result."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, overload

from specstar.message_queue.job import Job, P, R_co
from specstar.message_queue.queue import JobQueue

__all__ = ["DeclareJob", "DeclareJobWithResult"]

R = TypeVar("R")


class DeclareJob(Protocol):
    """Declares a job by its handler."""

    @overload
    def __call__(self, handler: Callable[[Job[P]], Awaitable[R]], /) -> JobQueue[P, R]: ...

    @overload
    def __call__(self, handler: Callable[[Job[P]], Awaitable[R] | R], /) -> JobQueue[P, R]: ...


class DeclareJobWithResult(Protocol[R_co]):
    """Declares a job by its handler and the type that its results are read as, whatever the handler's annotation says."""

    def __call__(self, handler: Callable[[Job[P]], Any], /) -> JobQueue[P, R_co]: ...
