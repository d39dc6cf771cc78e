"""Where calls are cancelled: one configured spec with a model, jobs and blobs, and what a case of a call is."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import anyio
import anyio.to_thread
import msgspec

from specstar import Job, NoRetry, SpecStar
from specstar.message_queue import JobQueue, WorkerStop
from specstar.resource_manager import ResourceManager
from tests.faults.tools.bindings import Backend

__all__ = ["Case", "Mail", "Place", "User"]

LARGE = 9_000
"""Bytes of a payload that lies in a file of its own on disk."""

_numbers = itertools.count(1)


class User(msgspec.Struct):
    name: str
    age: int = 0
    group: str = ""


class Mail(msgspec.Struct):
    number: int
    fails: bool = False


class Place:
    """A spec on a backend. `ran` counts the runs of each job, by its number."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.spec = SpecStar()
        self.spec.configure(backend=backend)
        self.users: ResourceManager[User] = self.spec.add_model(User, indexed_fields=["name", "age", "group"])
        self.ran: Counter[int] = Counter()
        self.when_ran: Callable[[], None] | None = None

        async def mail(job: Job[Mail]) -> int:
            self.ran[job.payload.number] += 1
            if self.when_ran is not None:
                self.when_ran()
            if job.payload.fails:
                raise NoRetry("as it was told")
            await anyio.sleep(0)
            return job.payload.number

        self.mail: JobQueue[Mail] = self.spec.add_job(Mail, mail, name="mail")

    async def settle(self, *, away: bool) -> Place:
        """Choose the home now: `away`, a loop in a thread of its own, as for blocking callers; else as this loop needs it."""
        gate = self.spec._gate
        if away:
            await anyio.to_thread.run_sync(lambda: gate.settle(blocking=True))
        else:
            gate.settle()
        return self

    async def another(self) -> Place:
        """A second spec on the same backend, with a home of the same kind, and nothing open."""
        home = self.spec._gate.home
        return await Place(self.backend).settle(away=home is not None and not home.is_current())

    @staticmethod
    def number() -> int:
        """A number that no other subject has."""
        return next(_numbers)

    @staticmethod
    def bytes(number: int, size: int = 200_000) -> bytes:
        """Content that no other number has."""
        return random.Random(number).randbytes(size)

    async def work_until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Run workers until the condition holds."""
        stop = WorkerStop()

        async def watch() -> None:
            while not await condition():  # noqa: ASYNC110  the condition may lie on a server
                await anyio.sleep(0.002)
            stop.set()

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            await self.spec.run_workers(concurrency=4, stop=stop, handle_signals=False, drain_timeout=5)

    async def work_off(self, job_ids: list[str]) -> None:
        """Run workers until these jobs are finished."""

        async def finished() -> bool:
            return all([(await self.mail.get(job_id)).status.finished for job_id in job_ids])

        await self.work_until(finished)

    async def newest(self) -> list[Job[Mail]]:
        """The jobs that came last, among them those of the case at hand."""
        return await self.mail.search(limit=20)


Prepare = Callable[[Place], Awaitable[Any]]
Act = Callable[[Place, Any], Awaitable[Any]]


class Case(NamedTuple):
    """One public coroutine: what it works on, the call, and a look at what is there.

    A look gives the same for every subject in the same state; without `look` the call changes nothing that can be seen.
    `parts`: the look gives a list, each entry of which is as before or as after by itself. `alone`: no neighbours beside it.
    `own`: `prepare` gives a `Place` of its own, and the call is made there; it is closed at the end.
    """

    name: str
    prepare: Prepare
    act: Act
    look: Act | None = None
    parts: bool = False
    alone: bool = False
    own: bool = False
    note: str = ""

    @property
    def id(self) -> str:
        return f"{self.name} {self.note}".strip()
