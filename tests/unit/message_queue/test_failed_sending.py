"""A message that went out although its sender was told otherwise: its job runs, once."""

from __future__ import annotations

from typing import Any

import pytest

from specstar import Job, JobStatus, SpecStar
from specstar.errors import BackendUnavailable, OutcomeUnknownError
from specstar.message_queue import sender
from specstar.message_queue.ticks import Look
from tests.conformance.jobs.harness import Mail, eventually, workers


async def test_a_sender_that_fails_does_not_take_back_a_job_that_has_ended(
    spec: SpecStar, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []

    async def note(job: Job[Mail]) -> None:
        runs.append(job.payload.number)

    queue = spec.add_job(Mail, note)
    async with workers(spec):
        messages = await spec._gate.run(_queue_of(queue))
        publish = messages.publish
        sent: list[Any] = []

        async def publish_and_lose_the_answer(message: Any, *, delay: float = 0) -> None:
            """The job has ended, and its state has been written, before the sender gives up."""
            sent.append(message)
            await publish(message, delay=delay)
            await eventually(lambda: runs)
            await queue.count()
            raise BackendUnavailable("not confirmed in time")

        monkeypatch.setattr(messages, "publish", publish_and_lose_the_answer)
        with pytest.raises(BackendUnavailable):
            await queue.enqueue(Mail(number=1))
        monkeypatch.undo()
        assert (await queue.get(sent[0].id)).status is JobStatus.succeeded
        # The same message once more, as a broker delivers it that never saw the acknowledgement.
        await spec._gate.run(lambda: publish(sent[0]))
        other = await queue.enqueue(Mail(number=2))
        await queue.wait(other.job_id, timeout=10)
    assert runs == [1, 2]


def _queue_of(queue: Any) -> Any:
    async def look() -> Any:
        return queue._sender.messages()

    return look


async def test_a_tick_that_left_a_record_without_a_message_runs_once_it_is_sent_again(
    spec: SpecStar, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []

    async def note(job: Job[Mail]) -> None:
        runs.append(job.payload.number)

    queue = spec.add_job(Mail, note, every=86_400, every_payload=Mail(number=7))

    ticks = queue._ticks
    assert ticks is not None

    async def tick(look: Look) -> bool:
        return await spec._gate.run(lambda: ticks.enqueue(5, look=look))

    state = await spec._gate.run(_state_of(queue))
    create = state.create

    async def create_and_lose_the_answer(record: Any) -> None:
        await create(record)
        raise OutcomeUnknownError("the answer was lost")

    monkeypatch.setattr(state, "create", create_and_lose_the_answer)
    with pytest.raises(OutcomeUnknownError):
        await tick(Look.first)
    monkeypatch.undo()
    assert await queue.count() == 1
    async with workers(spec):
        # As another worker would: it is not its own, and may be under way.
        assert not await tick(Look.first)
        await tick(Look.after_failure)
        await eventually(lambda: runs)
        await tick(Look.after_failure)
        other = await queue.enqueue(Mail(number=2))
        await queue.wait(other.job_id, timeout=10)
    assert runs == [7, 2]


@pytest.mark.parametrize("left", ["record", "nothing"])
@pytest.mark.parametrize("schedule", [{"every": 86_400}, {"cron": "0 6 * * *", "timezone": "Europe/Berlin"}])
async def test_a_tick_whose_sender_was_killed_or_stopped_before_its_message_is_sent_by_another(
    spec: SpecStar, monkeypatch: pytest.MonkeyPatch, left: str, schedule: dict[str, Any]
) -> None:
    async def note(job: Job[Mail]) -> None: ...

    queue = spec.add_job(Mail, note, every_payload=Mail(number=7), **schedule)
    ticks = queue._ticks
    assert ticks is not None
    messages = await spec._gate.run(_queue_of(queue))
    seen: list[bool] = []

    async def publish(message: Any, *, delay: float = 0) -> None:
        """Meanwhile another worker has its first look."""
        monkeypatch.undo()
        seen.append(await ticks.enqueue(5))
        if left == "record":
            # As after a kill: nobody takes the record back.
            monkeypatch.setattr(sender, "_forget", _nothing)
        raise BackendUnavailable("it ends here")

    monkeypatch.setattr(messages, "publish", publish)
    with pytest.raises(BackendUnavailable):
        await spec._gate.run(lambda: ticks.enqueue(5))
    monkeypatch.undo()
    assert seen == [False]
    assert (await queue.count(), await queue.depth()) == (int(left == "record"), 0)
    published: list[Any] = []
    send = messages.publish

    async def noted(message: Any, *, delay: float = 0) -> None:
        published.append(message)
        await send(message, delay=delay)

    monkeypatch.setattr(messages, "publish", noted)
    # A queue of this process would tell that it has the message.
    monkeypatch.setattr(messages, "holds", lambda job_id: False)
    for _ in range(3):
        assert await spec._gate.run(lambda: ticks.enqueue(5, look=Look.after_another))
    # A record that is new again is sent twice at most: a copy is dropped.
    assert (len(published), await queue.count()) == (1 if left == "record" else 2, 1)


async def test_a_tick_that_was_made_with_another_payload_is_sent_after_a_failure(
    spec: SpecStar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its maker was killed before the message: the payload that is kept counts."""
    runs: list[int] = []

    async def note(job: Job[Mail]) -> None:
        runs.append(job.payload.number)

    queue = spec.add_job(Mail, note, every=86_400, every_payload=Mail(number=7))
    ticks = queue._ticks
    assert ticks is not None
    messages = await spec._gate.run(_queue_of(queue))

    async def publish(message: Any, *, delay: float = 0) -> None:
        raise BackendUnavailable("it ends here")

    monkeypatch.setattr(messages, "publish", publish)
    monkeypatch.setattr(sender, "_forget", _nothing)
    with pytest.raises(BackendUnavailable):
        await spec._gate.run(lambda: ticks.enqueue(5))
    monkeypatch.undo()
    ticks._payload = Mail(number=8)
    assert await spec._gate.run(lambda: ticks.enqueue(5, look=Look.after_failure))
    async with workers(spec):
        await eventually(lambda: runs)
    assert runs == [7]


@pytest.mark.parametrize(("forget_after", "over"), [(60.0, False), (1.0, True)])
async def test_a_tick_that_may_have_run_and_been_forgotten_is_not_looked_at_again(
    spec: SpecStar, monkeypatch: pytest.MonkeyPatch, forget_after: float, over: bool
) -> None:
    async def note(job: Job[Mail]) -> None: ...

    queue = spec.add_job(Mail, note, every=86_400, every_payload=Mail(number=7), forget_after=forget_after)
    ticks = queue._ticks
    assert ticks is not None
    assert await spec._gate.run(lambda: ticks.enqueue(5))
    assert await spec._gate.run(lambda: ticks.enqueue(5)) is over


async def _nothing(*_: Any, **__: Any) -> None: ...


def _state_of(queue: Any) -> Any:
    async def look() -> Any:
        return queue._state()

    return look
