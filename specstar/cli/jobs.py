"""`specstar jobs` and `specstar dead`: what the queues of a program hold, jobs one by one, and dead letters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import Parameter

from specstar.errors import SpecstarError, UsageError

if TYPE_CHECKING:
    from specstar import Job, JobStatus, SpecStar
    from specstar.message_queue import DeadJob, JobQueue

__all__ = ["dead", "jobs", "refuse_state_in_memory"]

R = TypeVar("R")


Status = Literal["pending", "running", "retrying", "succeeded", "failed", "cancelled"]


def jobs(
    target: str,
    job: str = "",
    /,
    *,
    status: Status | None = None,
    limit: int = 20,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Show how many jobs of each type are ready to run and have each status; with JOB, the newest of that type.

    Jobs without state (keep_state=False) are counted while they are ready only.

    Parameters
    ----------
    target
        MODULE:NAME of the program's SpecStar object, such as app.jobs:spec. The module must configure it.
    job
        Name of a job: its jobs are shown one by one, the newest first.
    status
        With JOB: only those that have this status.
    limit
        With JOB: the most that are shown.
    json
        Print JSON.
    """
    import anyio

    from specstar.cli.output import print_json, print_table
    from specstar.cli.target import load_spec
    from specstar.message_queue import JobStatus

    if limit < 1:
        raise UsageError("--limit must be 1 or more")
    if not job:
        if status is not None:
            raise UsageError("--status goes with the name of a job")
        found = anyio.run(_counts, load_spec(target))
        if json:
            print_json({"jobs": found})
            return 0
        columns = ("job", "ready", *(each.value for each in JobStatus))
        print_table(
            columns, [(name, *(str(counts.get(key, "-")) for key in columns[1:])) for name, counts in found.items()]
        )
        return 0
    newest = anyio.run(_newest, load_spec(target), job, None if status is None else JobStatus(status), limit)
    if json:
        print_json({"jobs": [_plain(one) for one in newest]})
    else:
        rows = [
            (
                one.job_id,
                one.status.value,
                str(one.attempts),
                _moment(one.created_time),
                _moment(one.finished_time),
                (one.error or "").partition("\n")[0],
            )
            for one in newest
        ]
        print_table(("job id", "status", "attempts", "created", "finished", "error"), rows)
    return 0


def _moment(time: datetime | None) -> str:
    return "" if time is None else time.isoformat(timespec="seconds")


async def _newest(spec: SpecStar, name: str, status: JobStatus | None, limit: int) -> list[Job[Any]]:
    queue = spec.get_job_queue(name)
    refuse_state_in_memory(spec, queue)
    async with spec:
        return await queue.search(status=status, limit=limit)


def refuse_state_in_memory(spec: SpecStar, queue: JobQueue[Any]) -> None:
    """Raises `UsageError` where another process cannot see the jobs."""
    if queue.keep_state and not spec._bound.storage().durable:
        raise UsageError("the state of jobs lives in the memory of the program: none can be seen here")


async def _counts(spec: SpecStar) -> dict[str, dict[str, int]]:
    """All at once: the stores answer what is asked together together."""
    import anyio

    from specstar.message_queue import JobStatus

    _refuse_private(spec)
    found: dict[str, dict[str, int]] = {}
    errors: list[SpecstarError] = []

    async def count(name: str, column: str, asked: Callable[[], Awaitable[int]]) -> None:
        try:
            found[name][column] = await asked()
        except SpecstarError as error:
            errors.append(error)

    async with spec, anyio.create_task_group() as group:
        for name, queue in spec._jobs.queues.items():
            # In the order of the columns, whichever is known first.
            found[name] = dict.fromkeys(["ready", *(status.value for status in JobStatus if queue.keep_state)], 0)
            group.start_soon(count, name, "ready", queue.depth)
            if queue.keep_state:
                for status in JobStatus:
                    group.start_soon(count, name, status.value, partial(queue.count, status=status))
    if errors:
        raise errors[0]
    return found


def dead(
    target: str,
    job: str,
    /,
    *job_ids: str,
    every: Annotated[bool, Parameter(name="--all", negative="")] = False,
    requeue: Annotated[bool, Parameter(negative="")] = False,
    purge: Annotated[bool, Parameter(negative="")] = False,
    limit: int = 100,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Show the dead letters of a job, send them back to work, or delete them.

    Parameters
    ----------
    target
        MODULE:NAME of the program's SpecStar object, such as app.jobs:spec. The module must configure it.
    job
        Name of the job.
    job_ids
        Ids of the dead jobs to requeue or purge.
    every
        Requeue or purge all that are dead now.
    requeue
        Send them back to work, with no attempts counted.
    purge
        Delete the letters; the state of the jobs stays.
    limit
        The most that are shown.
    json
        Print JSON.
    """
    import anyio

    from specstar.cli.output import print_json, print_table, print_text
    from specstar.cli.target import load_spec

    if requeue and purge:
        raise UsageError("give --requeue or --purge, not both")
    if (requeue or purge) == (not job_ids and not every):
        raise UsageError("--requeue and --purge take ids or --all; without them, dead letters are shown")
    if job_ids and every:
        raise UsageError("give ids or --all, not both")
    if limit < 1:
        raise UsageError("--limit must be 1 or more")
    spec = load_spec(target)
    if requeue or purge:
        done = "requeued" if requeue else "purged"
        ids = job_ids or None
        count = anyio.run(
            _on_queue, spec, job, lambda queue: queue.requeue_dead(ids) if requeue else queue.purge_dead(ids)
        )
        if json:
            print_json({done: count})
        else:
            print_text(f"{done}: {count}")
        return 0 if count >= len(set(job_ids)) else 1
    letters = anyio.run(_on_queue, spec, job, lambda queue: queue.list_dead(limit=limit))
    if json:
        print_json({"dead": [_plain(letter) for letter in letters]})
    else:
        rows = [
            (one.job_id, one.dead_time.isoformat(timespec="seconds"), str(one.attempts), one.reason) for one in letters
        ]
        print_table(("job id", "time", "attempts", "reason"), rows)
    return 0


def _refuse_private(spec: SpecStar) -> None:
    factory = spec._bound.message_queue_factory
    if factory is not None and not factory.binding.provider.durable:
        raise UsageError(
            f"the messages of {factory.binding.type} live in the process of the program: none can be seen here"
        )


async def _on_queue(spec: SpecStar, job: str, use: Callable[[JobQueue[Any]], Awaitable[R]]) -> R:
    queue = spec.get_job_queue(job)
    _refuse_private(spec)
    async with spec:
        return await use(queue)


def _plain(shown: DeadJob[Any] | Job[Any]) -> dict[str, Any]:
    import msgspec

    return {name: msgspec.to_builtins(getattr(shown, name)) for name in shown.__struct_fields__}
