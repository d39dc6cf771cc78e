"""The exact record of what workers did, and its comparison with what a job queue promises."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from specstar import Job, JobStatus
from specstar.message_queue import JobQueue
from specstar.query import QB
from tests.faults.ledger import Figures
from tests.faults.tools.working import Task

__all__ = ["Run", "Worked"]


class Run(NamedTuple):
    """One call of a handler, from `begin` to `stop`, when it returned or its process died."""

    job_id: str
    queue: str
    attempt: int
    partition: str | None
    pid: int
    begin: float
    stop: float
    ended: bool


class Worked:
    """What was sent, run and lost, over the lives of all workers. `seed` is shown when something is wrong."""

    def __init__(self, figures: Figures, seed: int) -> None:
        self.figures = figures
        self.seed = seed
        self.confirmed: dict[str, int] = {}
        self.runs: dict[str, list[Run]] = defaultdict(list)
        # Jobs whose success was in the state when their worker died before it could acknowledge: when that was.
        self.settled: dict[str, float] = {}
        self._deaths: dict[int, float] = {}

    def take(self, pid: int, records: list[list[Any]], died: float | None = None) -> None:
        """Note what a process that is gone has said. `died`: when it was killed; None if it ended by itself."""
        begun: dict[tuple[str, int], list[Any]] = {}
        for word, *rest in records:
            if word == "sent":
                self.confirmed[rest[1]] = rest[0]
                self.figures.acknowledged += 1
            elif word == "begin":
                begun[rest[0], rest[1]] = rest
            elif word == "stop":
                job_id, attempt, time, ended = rest
                self._add(pid, begun.pop((job_id, attempt)), time, ended=ended)
            elif word == "dying":
                time, job_id, status, after = rest
                died = time if died is None else min(died, time)
                if after and status == JobStatus.succeeded:
                    self.settled[job_id] = time
        if died is not None:
            self._deaths[pid] = died
        for rest in begun.values():
            assert died is not None, f"seed {self.seed}: process {pid} ended in good order amid {rest}"
            self._add(pid, rest, max(died, rest[-1]), ended=False)

    def _add(self, pid: int, begun: list[Any], stop: float, *, ended: bool) -> None:
        job_id, attempt, queue, partition, begin = begun
        self.runs[job_id].append(Run(job_id, queue, attempt, partition, pid, begin, stop, ended))

    async def unfinished(self, queues: Iterable[JobQueue[Task]]) -> set[str]:
        """The jobs that were confirmed and are not over."""
        waiting = [JobStatus.pending.value, JobStatus.running.value, JobStatus.retrying.value]
        found = [await queue.search(QB["status"].in_(waiting), limit=None) for queue in queues]
        return {job.job_id for jobs in found for job in jobs} & set(self.confirmed)

    async def check(self, queues: Iterable[JobQueue[Task]]) -> None:
        """Every confirmed job ran to its end; none was run again without need; nothing that excludes another overlapped."""
        jobs: dict[str, Job[Task]] = {}
        for queue in queues:
            jobs |= {job.job_id: job for job in await queue.search(limit=None)}
        for job_id, number in self.confirmed.items():
            job, runs = jobs.get(job_id), self.runs.get(job_id, [])
            done = job is not None and job.status is JobStatus.succeeded and job.result == number
            self.figures.lost += not (done and any(run.ended for run in runs))
            assert self.figures.lost == 0, f"seed {self.seed}: job {number} was confirmed; it is {job}, and ran {runs}"
        begins = sorted((run.begin, run.pid) for runs in self.runs.values() for run in runs)
        for pid, died in self._deaths.items():
            # Until somebody else works.
            stall = next((begin - died for begin, other in begins if begin > died and other != pid), 0.0)
            self.figures.longest_stall = max(self.figures.longest_stall, stall)
        for runs in self.runs.values():
            self._check_runs(sorted(runs, key=lambda run: run.begin))
        overlaps = self._overlaps()
        assert not overlaps, f"seed {self.seed}: two at once: {overlaps[0]}"

    def _check_runs(self, runs: list[Run]) -> None:
        attempts = [run.attempt for run in runs]
        # Each run is counted, and no two count as one.
        assert attempts == sorted(set(attempts)), f"seed {self.seed}: {runs}"
        settled = self.settled.get(runs[0].job_id)
        again = 0 if settled is None else sum(run.begin > settled for run in runs)
        for run, later in itertools.pairwise(runs):
            if run.ended and later.begin < self._deaths.get(run.pid, math.inf):
                again += 1  # its worker was well, and had recorded it or was about to
        self.figures.duplicated += again
        assert not again, f"seed {self.seed}: run again after it had finished: {runs}"

    def _overlaps(self) -> list[tuple[Run, Run]]:
        """Runs of one partition, or of one job, of which the second began before the first was over."""
        lines: dict[str, list[Run]] = defaultdict(list)
        for run in sorted((run for runs in self.runs.values() for run in runs), key=lambda run: run.begin):
            lines[f"job {run.job_id}"].append(run)
            if run.partition is not None:
                lines[f"partition {run.queue} {run.partition}"].append(run)
        pairs = [pair for line in lines.values() for pair in itertools.pairwise(line)]
        return [(first, second) for first, second in pairs if second.begin < first.stop]
