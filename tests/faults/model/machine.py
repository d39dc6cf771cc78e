"""The machine without its rules: a fresh place for each example, opened, closed and opened anew."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis.stateful import RuleBasedStateMachine, rule

from specstar import Job, NoRetry, SpecStar
from specstar.errors import SpecstarError
from tests.faults.ledger import Figures
from tests.faults.model.plain import PlainBlobs, PlainJobs, PlainResources, User
from tests.faults.tools.bindings import Backend, is_durable

__all__ = ["Mail", "Managers"]


class Mail(User):
    """What jobs carry: `age` is their number."""


class Managers(RuleBasedStateMachine):
    """One example: a fresh place, random calls, closed at the end. Subclasses say where and on which event loop."""

    place: ClassVar[Callable[[], Backend]]
    loop: ClassVar[str]
    figures: ClassVar[Figures]

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.portal: BlockingPortal = self.stack.enter_context(start_blocking_portal(self.loop))
        self.backend = type(self).place()
        self.resources = PlainResources()
        self.blobs = PlainBlobs()
        self.jobs = PlainJobs()
        self.failing: set[int] = set()
        self.first_versions: dict[tuple[str, str], int] = {}
        self.ran: dict[int, int] = {}
        self.open()

    def open(self) -> None:
        """A SpecStar as a new process would make it."""
        self.spec = SpecStar()
        self.spec.configure(backend=self.backend)
        self.users = self.spec.add_model(User, indexed_fields=["name", "age", "tags"])

        async def mail(job: Job[Mail]) -> None:
            number = job.payload.age
            self.ran[number] = self.ran.get(number, 0) + 1
            if number in self.failing:
                raise NoRetry("as it was told")

        self.mail = self.spec.add_job(Mail, mail, name="mail", max_retries=0)

    def teardown(self) -> None:
        try:
            self.portal.call(self.spec.aclose)
        finally:
            self.stack.close()

    def call(self, function: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> Any:
        async def bounded() -> Any:
            with anyio.fail_after(60):
                return await function(*arguments, **options)

        self.figures.acknowledged += 1
        return self.portal.call(bounded)

    async def told(self, function: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> Any:
        """The answer, or the error."""
        try:
            return await function(*arguments, **options)
        except SpecstarError as error:
            return error

    # The life of a program

    @rule()
    def reopen(self) -> None:
        """Close, and begin anew as another process would: what is durable is there."""
        self.call(self.spec.aclose)
        self.open()
        self.figures.faults += 1
        if not is_durable(self.backend):
            self.resources = PlainResources()
        if self.backend["blob"]["type"] == "memory":
            self.blobs = PlainBlobs()
        self.jobs_reopened()
        self.look_at_resources()

    def jobs_reopened(self) -> None:
        """For the part that has jobs."""

    def look_at_resources(self) -> None:
        """For the part that has resources."""
