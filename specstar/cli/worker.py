"""`specstar worker`: run the jobs of a program until told to stop."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from specstar.errors import UsageError

if TYPE_CHECKING:
    from specstar import SpecStar

__all__ = ["worker"]


def worker(
    target: str,
    /,
    *,
    queue: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    concurrency: int = 10,
    drain_timeout: float = 25.0,
    burst: Annotated[bool, Parameter(negative="")] = False,
    loop: Literal["asyncio", "trio", "uvloop"] = "asyncio",
    log_level: Literal["debug", "info", "warning", "error"] | None = None,
) -> int:
    """Run the workers of a program's jobs. SIGTERM and SIGINT drain: jobs under way finish, no new ones start.

    Parameters
    ----------
    target
        MODULE:NAME of the program's SpecStar object, such as app.jobs:spec. The module must configure it.
    queue
        Name of a job that this worker runs; give it once for each. Without it, all jobs are run.
    concurrency
        Jobs at once.
    drain_timeout
        Seconds that jobs under way have to finish once told to stop.
    burst
        Exit once no job is ready or runs here. Delayed jobs are not waited for, periodic ones are not sent.
    loop
        The event loop of async handlers.
    log_level
        The least that is logged, by all libraries whose loggers the program gives no level. Without it: what the program
        sets up when it is imported, else info.
    """
    import logging

    import anyio

    from specstar.cli.target import load_spec

    if concurrency < 1:
        raise UsageError("--concurrency must be 1 or more")
    if not drain_timeout >= 0:
        raise UsageError("--drain-timeout must be 0 or more")
    spec = load_spec(target)
    # After the import: the handlers and the format that the program has set up stay.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if log_level is not None:
        logging.getLogger().setLevel(log_level.upper())
    # A traceback for each attempt to connect, of which specstar tells in a line.
    logging.getLogger("aiormq").setLevel(logging.CRITICAL)
    queues = spec._bound.message_queue_factory
    if queues is not None and not queues.binding.provider.durable:
        logging.getLogger("specstar").warning(
            "the queues of %s live in one process: jobs that other processes enqueue do not come here while those run. Here "
            "run periodic jobs, what is enqueued by jobs, and unfinished jobs of processes that have ended",
            queues.binding.type,
        )
    backend = "trio" if loop == "trio" else "asyncio"
    options = {"use_uvloop": True} if loop == "uvloop" else {}
    try:
        import_module(loop)
        anyio.run(_work, spec, queue, concurrency, drain_timeout, burst, backend=backend, backend_options=options)
    except ModuleNotFoundError as error:
        if error.name != loop:
            raise
        raise UsageError(f"--loop {loop}: {loop} is not installed") from None
    return 0


async def _work(spec: SpecStar, names: Sequence[str], concurrency: int, drain_timeout: float, burst: bool) -> None:
    queues = [spec.get_job_queue(name) for name in dict.fromkeys(names)] or None
    async with spec:
        await spec.run_workers(queues=queues, concurrency=concurrency, drain_timeout=drain_timeout, burst=burst)
