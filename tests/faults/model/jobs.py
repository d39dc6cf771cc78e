"""Jobs, in the machine: sent, cancelled, run, dead, requeued, and picked up by the next program."""

from __future__ import annotations

from typing import Any

import anyio
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from specstar.errors import IdempotencyConflictError
from specstar.message_queue import WorkerStop
from tests.faults.model.blobs import BlobRules
from tests.faults.model.machine import Mail
from tests.faults.model.plain import PlainJobs
from tests.faults.model.resources import ResourceRules
from tests.faults.tools.bindings import is_durable

__all__ = ["ManagersAndJobs"]

NUMBERS = st.integers(0, 5)


class ManagersAndJobs(ResourceRules, BlobRules):
    """All managers."""

    @rule(number=NUMBERS, key=st.sampled_from([None, None, "k1", "k2"]))
    def enqueue(self, number: int, key: str | None) -> None:
        known = self.jobs.of_key(key) if key is not None else None
        job = self.call(self.told, self.mail.enqueue, Mail("", number), idempotency_key=key)
        if known is None:
            self.jobs.jobs[job.job_id] = (number, key, "pending")
        elif self.jobs.jobs[known][0] == number:
            assert job.job_id == known
        else:
            assert type(job) is IdempotencyConflictError

    @rule(numbers=st.lists(NUMBERS, min_size=1, max_size=4))
    def enqueue_together(self, numbers: list[int]) -> None:
        """By callers of their own, and the same again by one `enqueue_many`."""

        async def together() -> list[Any]:
            sent: list[Any] = []

            async def one(number: int) -> None:
                sent.append(await self.mail.enqueue(Mail("", number)))

            async with anyio.create_task_group() as group:
                for number in numbers:
                    group.start_soon(one, number)
            return sent + await self.mail.enqueue_many([Mail("", number) for number in numbers])

        for job in self.call(together):
            self.jobs.jobs[job.job_id] = (job.payload.age, None, "pending")

    @precondition(lambda self: self.jobs.jobs)
    @rule(pick=st.integers(0, 20))
    def cancel(self, pick: int) -> None:
        job_id = list(self.jobs.jobs)[pick % len(self.jobs.jobs)]
        waits = self.jobs.status(job_id) == "pending"
        assert self.call(self.mail.cancel, job_id) is waits
        if waits:
            self.jobs.set(job_id, "cancelled")

    @rule(failing=st.sets(NUMBERS, max_size=3))
    def work(self, failing: set[int]) -> None:
        """Run workers until nothing waits."""
        self.failing = failing
        self.run_pending()
        self.look_at_jobs()

    def run_pending(self) -> None:
        pending = self.jobs.with_status("pending")
        self.ran.clear()

        async def work_off() -> None:
            stop = WorkerStop()

            async def watch() -> None:
                for job_id in pending:
                    await self.mail.wait(job_id, timeout=20)
                stop.set()

            async with anyio.create_task_group() as group:
                group.start_soon(watch)
                await self.spec.run_workers(concurrency=3, stop=stop, handle_signals=False, drain_timeout=10)

        self.call(work_off)
        numbers = [self.jobs.jobs[job_id][0] for job_id in pending]
        for number in set(numbers):
            assert self.ran.get(number, 0) >= numbers.count(number), f"job {number} was lost"
            self.figures.duplicated += self.ran[number] - numbers.count(number)
        assert {*self.ran} <= {*numbers}, "a job ran that was cancelled or had ended"
        for job_id in pending:
            fails = self.jobs.jobs[job_id][0] in self.failing
            self.jobs.set(job_id, "failed" if fails else "succeeded")
            if fails:
                self.jobs.dead.add(job_id)

    def look_at_jobs(self) -> None:
        found = {job.job_id: job for job in self.call(self.mail.search, limit=None)}
        told = {job_id: (job.payload.age, job.idempotency_key, job.status.value) for job_id, job in found.items()}
        assert told == self.jobs.jobs
        for status in ("pending", "succeeded", "failed", "cancelled"):
            assert self.call(self.mail.count, status=status) == len(self.jobs.with_status(status))
        assert {letter.job_id for letter in self.call(self.mail.list_dead)} == self.jobs.dead

    @precondition(lambda self: self.jobs.dead)
    @rule(everything=st.booleans())
    def requeue_dead(self, everything: bool) -> None:
        chosen = sorted(self.jobs.dead) if everything else [min(self.jobs.dead)]
        assert self.call(self.mail.requeue_dead, None if everything else chosen) == len(chosen)
        for job_id in chosen:
            self.jobs.dead.discard(job_id)
            if job_id in self.jobs.jobs:
                self.jobs.set(job_id, "pending")
        self.look_at_jobs()

    @precondition(lambda self: self.jobs.dead)
    @rule()
    def purge_dead(self) -> None:
        assert self.call(self.mail.purge_dead) == len(self.jobs.dead)
        self.jobs.dead.clear()
        self.look_at_jobs()

    @rule()
    def purge(self) -> None:
        self.call(self.mail.purge)
        for job_id in self.jobs.with_status("pending"):
            self.jobs.set(job_id, "cancelled")
        self.look_at_jobs()

    @precondition(lambda self: not self.jobs.dead)
    @rule()
    def forget_finished(self) -> None:
        """All of them, but for jobs that were cancelled and whose messages may still come."""
        finished = {*self.jobs.with_status("succeeded", "failed", "cancelled")}
        count = self.call(self.mail.forget_finished, older_than=0)
        stay = {job.job_id for job in self.call(self.mail.search, status="cancelled", limit=None)}
        assert stay <= {*self.jobs.with_status("cancelled")}
        assert count == len(finished - stay)
        for job_id in finished - stay:
            del self.jobs.jobs[job_id]
        self.look_at_jobs()

    def jobs_reopened(self) -> None:
        simple = self.backend["mq"]["type"] == "simple"
        if simple:
            self.jobs.dead.clear()  # they end with their process
        if not is_durable(self.backend):
            assert simple  # jobs whose state ends and whose messages do not are another story
            self.jobs = PlainJobs()
        self.look_at_jobs()
