"""Headers travel with a job through all that becomes of it, and middleware surrounds every attempt."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import anyio
import pytest

from specstar import Job, JobMiddleware, JobStatus, SpecStar
from specstar.errors import IdempotencyConflictError, InvalidInputError, LimitExceededError
from tests.conformance.jobs.harness import Mail, dead_jobs, eventually, workers

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")
HEADERS = {"tenant": "7", "Größe": "ümlaut €"}


class Requests(JobMiddleware):
    """Carries the request in which a job was sent to its handler, and notes what goes on."""

    def __init__(self, name: str = "request") -> None:
        self.name = name
        self.seen: list[tuple[str, str, str]] = []

    def sending(self, queue: str, /) -> Mapping[str, str] | None:
        return {self.name: f"{request_id.get()} to {queue}"}

    def running(self, job: Job[Any], /) -> AbstractContextManager[object]:
        return self._running(job)

    @contextlib.contextmanager
    def _running(self, job: Job[Any]) -> Iterator[None]:
        token = request_id.set(job.headers[self.name])
        end = "ended"
        try:
            yield
        except BaseException as error:
            end = type(error).__name__
            raise
        finally:
            self.seen.append((self.name, request_id.get(), end))
            request_id.reset(token)


async def test_headers_come_to_the_handler_and_stay_with_the_job(spec: SpecStar) -> None:
    found: list[Mapping[str, str]] = []

    @spec.job(max_retries=1)
    async def work(job: Job[Mail]) -> None:
        found.append(job.headers)
        if job.attempts == 1 or job.payload.number == 13:
            raise RuntimeError("not yet")

    sent = await work.enqueue(Mail(), headers=HEADERS)
    assert sent.headers == HEADERS
    many = await work.enqueue_many([Mail(number=1), Mail(number=2)], headers={"batch": "9"}, delay=0.05)
    assert [job.headers for job in many] == [{"batch": "9"}] * 2
    plain = await work.enqueue(Mail(number=3))
    assert plain.headers == {}
    dead = await work.enqueue(Mail(number=13), headers={"un": "lucky"})
    async with workers(spec):
        assert (await work.wait(sent.job_id, timeout=20)).headers == HEADERS
        for job in (*many, plain):
            await work.wait(job.job_id, timeout=20)
        assert (await work.wait(dead.job_id, timeout=20)).status is JobStatus.failed
        assert (await dead_jobs(work))[0].headers == {"un": "lucky"}
        await work.requeue_dead()
        await dead_jobs(work)
    assert found.count(HEADERS) == 2
    assert found.count({"batch": "9"}) == 4
    assert found.count({}) == 2
    assert found.count({"un": "lucky"}) == 4


async def test_without_state_they_are_in_the_message(spec: SpecStar) -> None:
    found: list[Mapping[str, str]] = []

    @spec.job(keep_state=False, max_retries=1)
    async def work(job: Job[Mail]) -> None:
        found.append(job.headers)
        if job.attempts == 1:
            raise RuntimeError("not yet")

    await work.enqueue(Mail(), headers=HEADERS, partition_key="one")
    await spec.run_workers(burst=True, handle_signals=False)
    assert found == [HEADERS, HEADERS]


async def test_the_first_sender_of_a_key_gives_the_headers(spec: SpecStar) -> None:
    @spec.job
    async def work(job: Job[Mail]) -> None: ...

    first = await work.enqueue(Mail(), idempotency_key="k", headers={"trace": "1"})
    again = await work.enqueue(Mail(), idempotency_key="k", headers={"trace": "2"})
    assert (again.job_id, again.headers) == (first.job_id, {"trace": "1"})
    with pytest.raises(IdempotencyConflictError):
        await work.enqueue(Mail(number=1), idempotency_key="k", headers={"trace": "1"})


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ([("a", "b")], InvalidInputError),
        ("tenant", InvalidInputError),
        ({"a": 1}, InvalidInputError),
        ({1: "a"}, InvalidInputError),
        ({"": "a"}, InvalidInputError),
        ({"a": "b\0"}, InvalidInputError),
        ({"a": "\ud800"}, InvalidInputError),
        ({"a" * 256: "b"}, LimitExceededError),
        ({"a": "b" * 16_384}, LimitExceededError),
    ],
    ids=["a list", "text", "a number", "a number as name", "no name", "NUL", "surrogate", "a long name", "too much"],
)
async def test_what_are_no_headers_is_refused(spec: SpecStar, headers: Any, error: type[Exception]) -> None:
    @spec.job
    async def work(job: Job[Mail]) -> None: ...

    with pytest.raises(error) as raised:
        await work.enqueue(Mail(), headers=headers)
    assert "headers" in str(raised.value) or "header" in str(raised.value)
    with pytest.raises(error) as raised:
        await work.enqueue_many([Mail()], headers=headers)
    assert "payloads[" not in str(raised.value)
    assert await work.count() == 0


async def test_middleware_carries_the_context_of_the_sender_to_handlers_of_both_kinds(spec: SpecStar) -> None:
    outer, inner = Requests("outer"), Requests("inner")
    spec.add_job_middleware(outer)
    spec.add_job_middleware(inner)
    found: dict[str, tuple[str, Mapping[str, str]]] = {}
    threads: set[int] = set()

    @spec.job
    async def on_loop(job: Job[Mail]) -> None:
        found[job.job_id] = request_id.get(), job.headers

    @spec.job
    def in_thread(job: Job[Mail]) -> None:
        threads.add(threading.get_ident())
        found[job.job_id] = request_id.get(), job.headers

    async def plain_inside(job: Job[Mail]) -> None:
        found[job.job_id] = request_id.get(), job.headers

    @functools.wraps(plain_inside)
    def decorated(job: Job[Mail]) -> Any:
        return plain_inside(job)

    plainly = spec.add_job(Mail, decorated, name="decorated")
    request_id.set("request 1")
    first = await on_loop.enqueue(Mail())
    request_id.set("request 2")
    second = await in_thread.enqueue(Mail(), headers={"outer": "given"})
    third = (await plainly.enqueue_many([Mail()]))[0]
    request_id.set("request 3")
    async with workers(spec):
        for queue, job in ((on_loop, first), (in_thread, second), (plainly, third)):
            done = await queue.wait(job.job_id, timeout=20)
            assert done.status is JobStatus.succeeded, done.traceback
    assert threads
    assert threads.isdisjoint({threading.get_ident()})
    both = {"outer": "request 1 to on_loop", "inner": "request 1 to on_loop"}
    assert found[first.job_id] == ("request 1 to on_loop", both)
    assert found[second.job_id][1] == {"outer": "given", "inner": "request 2 to in_thread"}
    assert found[second.job_id][0] == "request 2 to in_thread"
    assert found[third.job_id][0] == "request 2 to decorated"
    assert ("outer", "given", "ended") in outer.seen
    assert request_id.get() == "request 3"


async def test_it_sees_each_attempt_and_how_it_ended(spec: SpecStar) -> None:
    middleware = Requests()
    spec.add_job_middleware(middleware)

    @spec.job(max_retries=2, timeout=0.2)
    async def work(job: Job[Mail]) -> None:
        if job.attempts == 1:
            raise KeyError("first")
        if job.attempts == 2:
            await anyio.sleep(30)

    sent = await work.enqueue(Mail())
    async with workers(spec):
        assert (await work.wait(sent.job_id, timeout=20)).attempts == 3
    ends = [end for _, _, end in middleware.seen]
    assert ends[0] == "KeyError"
    assert ends[1] in {"CancelledError", "Cancelled"}
    assert ends[2:] == ["ended"]


async def test_what_it_raises_itself(spec: SpecStar) -> None:
    class Broken(JobMiddleware):
        fails = False

        def sending(self, queue: str, /) -> Mapping[str, str] | None:
            if self.fails:
                raise ZeroDivisionError("sending")
            return None

        def running(self, job: Job[Any], /) -> AbstractContextManager[object]:
            if job.payload.number == 1:
                raise ZeroDivisionError("running")
            return contextlib.suppress(LookupError)

    middleware = Broken()
    spec.add_job_middleware(middleware)

    @spec.job(max_retries=0)
    async def work(job: Job[Mail]) -> None:
        if job.payload.number == 2:
            raise KeyError("not so bad")

    @spec.job(max_retries=0)
    def plain(job: Job[Mail]) -> None:
        if job.payload.number == 2:
            raise KeyError("not so bad")

    async with workers(spec):
        for queue in (work, plain):
            failed = await queue.wait((await queue.enqueue(Mail(number=1))).job_id, timeout=20)
            assert (failed.status, failed.error) == (JobStatus.failed, "ZeroDivisionError: running")
            assert failed.traceback is not None
            assert "message_queue/middleware.py" not in failed.traceback.partition("in running")[0]
            suppressed = await queue.wait((await queue.enqueue(Mail(number=2))).job_id, timeout=20)
            assert suppressed.status is JobStatus.succeeded
    middleware.fails = True
    with pytest.raises(ZeroDivisionError, match="sending"):
        await work.enqueue(Mail())
    assert await work.count() == 2


async def test_only_middleware_is_taken_and_workers_that_run_go_on_without_it(
    spec: SpecStar, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidInputError, match="JobMiddleware"):
        spec.add_job_middleware(print)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="JobMiddleware"):
        spec.add_job_middleware(JobMiddleware)  # type: ignore[arg-type]
    late = Requests()

    @spec.job
    async def work(job: Job[Mail]) -> Mapping[str, str]:
        return job.headers

    async with workers(spec):
        await work.wait((await work.enqueue(Mail())).job_id, timeout=20)
        spec.add_job_middleware(late)
        done = await work.wait((await work.enqueue(Mail())).job_id, timeout=20)
    assert done.result == {"request": "none to work"}
    assert not late.seen
    assert "Requests is added while workers run" in caplog.text


async def test_ticks_have_its_headers_and_are_sent_without_where_it_fails(
    spec: SpecStar, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(JobMiddleware):
        fails = False
        calls = 0

        def sending(self, queue: str, /) -> Mapping[str, str] | None:
            self.calls += 1
            if self.fails:
                raise ZeroDivisionError("sending")
            return {"of": queue}

    middleware = Failing()
    spec.add_job_middleware(middleware)
    found: list[Mapping[str, str]] = []

    @spec.job(every=0.3)
    async def tick(job: Job[Mail]) -> None:
        found.append(job.headers)

    async with workers(spec):
        await eventually(lambda: found)
        assert found[0] == {"of": "tick"}
        middleware.fails = True
        await eventually(lambda: {} in found)
        middleware.fails = False
        await eventually(lambda: found[-1])
    assert "middleware failed, so a tick is sent without headers" in caplog.text
    calls = middleware.calls
    assert len(await tick.enqueue_many([Mail()] * 3)) == 3
    assert middleware.calls == calls + 1
