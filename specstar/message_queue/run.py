"""`run_workers`: workers on the loop of the caller until they are told to stop, then a bounded drain."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import anyio

from specstar.checks import listed
from specstar.errors import BackendUnavailable, InvalidInputError, OutcomeUnknownError, UsageError
from specstar.message_queue.queue import JobQueue
from specstar.message_queue.retry import checked_seconds
from specstar.message_queue.signals import at_signals
from specstar.message_queue.worker import Worker
from specstar.runtime import Home
from specstar.runtime.crossing import home_of_caller

__all__ = ["DEFAULT_DRAIN_SECONDS", "WorkerStop", "checked_queues", "run_workers", "run_workers_blocking"]

Q = TypeVar("Q")
logger: logging.Logger = logging.getLogger("specstar")
DEFAULT_DRAIN_SECONDS = 25.0
"""Shorter than the 30 s that service managers commonly wait between SIGTERM and SIGKILL."""


class WorkerStop:
    """Tells workers to stop, from any thread or signal handler. The second call ends the drain at once.

    Signals are counted apart: one, and one call by the program that it ends, are not two.
    """

    def __init__(self) -> None:
        self.calls: int = 0
        self._signals: int = 0
        self._listeners: list[Callable[[int], None]] = []

    def set(self) -> None:
        """Stop taking jobs and drain; called again: cancel the handlers that still run."""
        self.calls += 1
        self._tell()

    def _signalled(self) -> None:
        self._signals += 1
        self._tell()

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener(max(self.calls, self._signals))

    @contextlib.contextmanager
    def listening(self, listener: Callable[[int], None]) -> Iterator[None]:
        """Have `listener` called with the number of calls so far, at once if there was one."""
        self._listeners.append(listener)
        try:
            if times := max(self.calls, self._signals):
                listener(times)
            yield
        finally:
            self._listeners.remove(listener)


async def run_workers(
    queues: Sequence[JobQueue[Any]],
    *,
    concurrency: int = 10,
    drain_timeout: float | timedelta = DEFAULT_DRAIN_SECONDS,
    stop: WorkerStop | None = None,
    handle_signals: bool = True,
    burst: bool = False,
    waits: bool = True,
) -> None:
    """Run the jobs of these queues, at most `concurrency` at a time, until cancelled, stopped, SIGTERM or SIGINT.

    Then no job is taken any more; those that run have `drain_timeout` seconds to end, and are cancelled after that: they go
    back to the queue and the attempt does not count. A second signal cancels them at once. Async handlers run on the
    caller's event loop, plain ones in threads. Signals are handled only in the main thread. While the broker is down the
    workers wait for it. `burst`: they also stop once no job is ready or runs here, and send no periodic ones. `waits`: if the
    spec is being closed, it is closed when this returns. Raises `UsageError` without queues, `InvalidInputError` for a wrong
    argument, `NotConfiguredError` without mq, `BackendError` if the broker refuses a queue, and `OutcomeUnknownError` if the
    spec had been opened on the event loop of another caller and that loop ends.
    """
    if not queues:
        raise UsageError("there are no jobs to run: declare them with @spec.job or spec.add_job before run_workers()")
    _check_stop(stop)
    if not isinstance(concurrency, int) or concurrency < 1:
        raise UsageError(f"concurrency is 1 or more, not {concurrency}")
    drain_seconds = checked_seconds(drain_timeout, field="drain_timeout")
    gate = queues[0]._gate
    if any(queue._gate is not gate for queue in queues):
        raise UsageError("the queues of one run_workers() belong to one spec")
    home = gate.settle()
    caller = None if home.is_current() else home_of_caller()
    worker = Worker(queues, concurrency=concurrency, drain_timeout=drain_seconds, caller=caller, burst=burst)
    stop = stop or WorkerStop()
    over = anyio.Event()
    errors: list[BaseException] = []

    def lost_its_loop() -> bool:
        """Whether that is why the worker has ended: neither told to, nor because somebody closed."""
        return caller is not None and not worker.told_to_stop and (home.ending or not worker.stopping)

    async def work() -> None:
        # Shielded: a cancelled caller makes the worker drain, within its own time limit.
        with anyio.CancelScope(shield=True):
            try:
                await gate.run(worker.run)
                if lost_its_loop():
                    errors.append(_loop_is_lost())
                elif waits:
                    await gate.until_closed()  # as the next call would find it half closed
            except Exception as error:
                if isinstance(error, OutcomeUnknownError) and lost_its_loop():
                    errors.append(_loop_is_lost())
                elif home.closing and isinstance(error, BackendUnavailable | OutcomeUnknownError):
                    logger.info("the spec is closed: the workers stop")
                else:
                    errors.append(error)
            finally:
                over.set()

    with contextlib.ExitStack() as stack:
        if handle_signals:
            stack.enter_context(at_signals(stop._signalled))
        stack.enter_context(stop.listening(worker.stop_from_anywhere))
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            try:
                await over.wait()
            finally:
                if not over.is_set():
                    worker.stop_from_anywhere(1)
    if errors:
        raise errors[0]


def checked_queues(queues: Sequence[Q], kind: type[Q]) -> list[Q]:
    """Those that a caller has named. Raises `InvalidInputError` for what is no list of them."""
    found = listed(queues, field="queues")
    for queue in found:
        if not isinstance(queue, kind):
            message = f"queues takes what this spec's `job` and `get_job_queue(name)` return, not {queue!r:.80}"
            raise InvalidInputError(message, field="queues")
    return found


def _check_stop(stop: object) -> None:
    if stop is not None and not isinstance(stop, WorkerStop):
        message = f"stop is a WorkerStop of specstar.message_queue, not {type(stop).__name__}"
        raise InvalidInputError(message, field="stop")


def _loop_is_lost() -> OutcomeUnknownError:
    return OutcomeUnknownError(
        "the event loop of another caller, on which the spec had been opened, has ended, and the workers with it; jobs that "
        "ran go back: call run_workers() again"
    )


def run_workers_blocking(queues: Sequence[JobQueue[Any]], **options: Any) -> None:
    """`run_workers` for a thread without an event loop: blocks until SIGTERM, Ctrl-C or `stop`, then drains."""
    if not queues:
        raise UsageError("there are no jobs to run: declare them with @spec.job or spec.add_job before run_workers()")
    stop = options.pop("stop", None)
    _check_stop(stop)
    stop = stop or WorkerStop()
    handle_signals = options.pop("handle_signals", True)
    gate = queues[0]._gate
    home: Home | None = None

    async def run() -> None:
        nonlocal home
        home = gate.home
        # Closing waits for this call: it is the thread that waits for the closing.
        await run_workers(queues, stop=stop, handle_signals=False, waits=False, **options)

    with at_signals(stop._signalled) if handle_signals else contextlib.nullcontext():
        try:
            gate.call(run)
        except (BackendUnavailable, OutcomeUnknownError):
            if home is None or not home.closing:
                raise
            logger.info("the spec is closed: the workers stop")
        gate.wait_closed()
