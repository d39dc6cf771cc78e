"""`specstar jobs` and `specstar dead`: what the queues of a program hold, and its dead letters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Parameter

from specstar.errors import SpecstarError, UsageError

if TYPE_CHECKING:
    from specstar import SpecStar
    from specstar.message_queue import DeadJob, JobQueue

__all__ = ["dead", "jobs"]

R = TypeVar("R")


def jobs(target: str, /, *, json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> int:
    """Show the jobs of a program: how many are ready to run, and how many have each status.

    Jobs without state (keep_state=False) are counted while they are ready only.

    Parameters
    ----------
    target
        MODULE:NAME of the program's SpecStar object, such as app.jobs:spec. The module must configure it.
    json
        Print JSON.
    """
    import anyio

    from specstar.cli.output import print_json, print_table
    from specstar.cli.target import load_spec
    from specstar.message_queue import JobStatus

    found = anyio.run(_counts, load_spec(target))
    if json:
        print_json({"jobs": found})
        return 0
    columns = ("job", "ready", *(status.value for status in JobStatus))
    print_table(
        columns, [(name, *(str(counts.get(key, "-")) for key in columns[1:])) for name, counts in found.items()]
    )
    return 0


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


def _plain(letter: DeadJob[Any]) -> dict[str, Any]:
    import msgspec

    return {name: msgspec.to_builtins(getattr(letter, name)) for name in letter.__struct_fields__}
