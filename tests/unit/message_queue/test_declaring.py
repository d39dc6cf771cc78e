"""Declaring jobs: what a handler says of itself, and what is refused at once."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Awaitable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, get_origin

import anyio
import anyio.lowlevel
import msgspec
import pytest
from msgspec import Struct

from specstar import DelayRetry, Job, SpecStar
from specstar.errors import InvalidInputError
from specstar.message_queue import JobQueue, WorkerStop
from specstar.message_queue.signature import signature_of


class Order(msgspec.Struct):
    number: int = 1


class Needy(msgspec.Struct):
    number: int


class CallableObject:
    async def __call__(self, job: Job[Order]) -> int:
        return job.payload.number


async def an_async_handler(job: Job[Order]) -> list[int]:
    return [job.payload.number]


def a_plain_handler(job: Job[Order], extra: int = 0) -> None: ...


def test_the_signature_tells_payload_result_and_kind() -> None:
    assert signature_of(an_async_handler) == ("an_async_handler", Order, list[int], True)
    assert signature_of(a_plain_handler) == ("a_plain_handler", Order, type(None), False)
    assert signature_of(CallableObject()) == ("CallableObject", Order, int, True)
    partial = functools.partial(a_plain_handler, extra=5)
    assert signature_of(partial)[:2] == ("a_plain_handler", Order)


def test_the_result_of_a_job_may_be_named_and_left_out_of_annotations() -> None:
    def told(job: Job[Order, int]) -> int:
        return job.payload.number

    assert signature_of(told) == ("told", Order, int, False)
    # One class for all jobs, whatever their types: annotations make no others.
    assert get_origin(Job[Order]) is get_origin(Job[Order, int]) is Job
    assert Job[Order] == Job[Order, Any]
    assert JobQueue[Order] == JobQueue[Order, Any]


def test_jobs_are_pickled_shown_and_read_as_one_class() -> None:
    job: Job[Order, int] = Job(job_id="1", queue="orders", payload=Order(5), created_time=datetime.now(UTC), result=7)
    assert type(job) is Job
    assert pickle.loads(pickle.dumps(job)) == job
    assert repr(job).startswith("Job(job_id='1', queue='orders', payload=Order(number=5), ")
    encoded = msgspec.json.encode(job)
    assert msgspec.json.decode(encoded, type=Job[Order]) == job
    assert msgspec.json.decode(encoded, type=Job[Order, int]) == job
    with pytest.raises(msgspec.ValidationError, match=r"Expected `str`, got `int` - at `\$\.result`"):
        msgspec.json.decode(encoded, type=Job[Order, str])


def test_a_plain_handler_that_hands_on_a_coroutine_has_the_result_of_that() -> None:
    def hand_on(job: Job[Order]) -> Awaitable[list[int]]:
        return an_async_handler(job)

    def hand_on_a_coroutine(job: Job[Order]) -> Coroutine[Any, Any, list[int]]:
        return an_async_handler(job)

    assert signature_of(hand_on) == ("hand_on", Order, list[int], False)
    assert signature_of(hand_on_a_coroutine) == ("hand_on_a_coroutine", Order, list[int], False)


def test_local_types_are_found_where_the_handler_is_declared() -> None:
    class Local(msgspec.Struct):
        text: str

    spec = SpecStar()

    @spec.job
    async def handler(job: Job[Local]) -> Local:
        return job.payload

    assert handler.payload_type is Local
    assert handler.result_type is Local


def test_the_decorator_keeps_name_and_text_and_the_handler_stays_callable() -> None:
    spec = SpecStar()

    @spec.job(max_retries=7)
    def handler(job: Job[Order]) -> int:
        """What it does."""
        return job.payload.number

    assert isinstance(handler, JobQueue)
    assert (handler.name, handler.__doc__, handler.max_retries) == ("handler", "What it does.", 7)
    job: Any = type("FakeJob", (), {"payload": Order(5)})()
    assert handler(job) == 5


async def _generator(job: Job[Order]) -> Any:
    yield job


async def _without_types(job: Any) -> None: ...


async def _without_argument() -> None: ...


async def _typed(job: Job[Order]) -> None: ...


async def _needy(job: Job[Needy]) -> None: ...


@pytest.mark.parametrize(
    ("handler", "options", "field"),
    [
        (_generator, {}, "handler"),
        (_without_argument, {}, "handler"),
        (Order, {}, "handler"),
        (_without_types, {}, "payload_type"),
        (lambda job: None, {"payload_type": Order}, "name"),
        (_typed, {"payload_type": object()}, "payload_type"),
        (_typed, {"max_retries": -1}, "max_retries"),
        (_typed, {"max_retries": True}, "max_retries"),
        (_typed, {"timeout": 0}, "timeout"),
        (_typed, {"timeout": float("inf")}, "timeout"),
        (_typed, {"every": 0}, "every"),
        (_typed, {"retry_delay": -1}, "retry_delay"),
        (_typed, {"retry_delay": timedelta(days=366)}, "retry_delay"),
        (_typed, {"retry_backoff": 0.5}, "retry_backoff"),
        (_typed, {"retry_backoff": timedelta(seconds=2)}, "retry_backoff"),
        (_typed, {"retry_backoff": float("nan")}, "retry_backoff"),
        (_typed, {"priority": 10}, "priority"),
        (_typed, {"concurrency": 0}, "concurrency"),
        (_typed, {"forget_after": -1}, "forget_after"),
        (_typed, {"forget_after": 5, "keep_state": False}, "forget_after"),
        (_typed, {"name": ""}, "name"),
        (_typed, {"name": "a\0b"}, "name"),
        (_needy, {"every": 5}, "every_payload"),
        (_typed, {"every": 5, "every_payload": "text"}, "payload"),
    ],
)
def test_wrong_declarations_are_refused(handler: Any, options: dict[str, Any], field: str) -> None:
    spec = SpecStar()
    with pytest.raises(InvalidInputError) as refused:
        spec.job(**options)(handler)
    assert refused.value.field == field
    assert spec._jobs.queues == {}


def test_times_may_be_timedeltas() -> None:
    minute = timedelta(minutes=1)
    job = SpecStar().job(
        retry_delay=minute,
        retry_max_delay=2 * minute,
        timeout=minute / 60,
        every=3 * minute,
        forget_after=minute * 1440,
    )(_typed)
    assert (job.retry_delay, job.retry_max_delay, job.timeout, job.every) == (60.0, 120.0, 1.0, 180.0)
    assert job.forget_after == 86_400.0
    assert DelayRetry(minute).seconds == 60.0
    assert str(DelayRetry(minute)) == str(DelayRetry(60))


def test_a_name_is_taken_once() -> None:
    spec = SpecStar()
    spec.job(_typed)
    with pytest.raises(InvalidInputError, match="declared already"):
        spec.job(_typed)


def test_an_annotation_that_is_for_type_checkers_alone() -> None:
    """Of the result it does not matter; of the payload it is told by name."""
    spec = SpecStar()

    async def returns(job: Job[Order]) -> Receipt: ...  # type: ignore[name-defined]  # noqa: F821

    async def takes(job: Job[Receipt]) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    queue = spec.job(returns)
    assert (queue.payload_type, queue.result_type) == (Order, Any)
    with pytest.raises(
        InvalidInputError, match="annotation of 'job' of the handler takes cannot be resolved: name 'Receipt'"
    ):
        spec.job(takes)


def test_a_payload_with_a_field_that_cannot_be_resolved() -> None:
    class Odd(Struct):
        receipt: Receipt  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(InvalidInputError, match="Receipt"):
        SpecStar().add_job(Odd, lambda job: None, name="odd")


async def test_a_job_that_is_declared_while_workers_run_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """It would wait for ever, and nothing would say why."""
    spec = SpecStar()
    spec.configure(backend={"mq": {"type": "simple"}})
    spec.add_job(Order, a_plain_handler, name="first")
    stop = WorkerStop()

    async def declare(name: str) -> None:
        spec.add_job(Order, a_plain_handler, name=name)
        stop.set()

    async with spec:
        async with anyio.create_task_group() as group:
            group.start_soon(functools.partial(spec.run_workers, stop=stop))
            await anyio.lowlevel.checkpoint()
            group.start_soon(declare, "late")
        spec.add_job(Order, a_plain_handler, name="after")
        stop = WorkerStop()
        async with anyio.create_task_group() as group:
            group.start_soon(functools.partial(spec.run_workers, queues=[spec.get_job_queue("first")], stop=stop))
            await anyio.lowlevel.checkpoint()
            group.start_soon(declare, "of others")
    told = [record.getMessage() for record in caplog.records if "is declared while workers run" in record.getMessage()]
    assert [text.split(" is declared")[0] for text in told] == ["job 'late'"]
