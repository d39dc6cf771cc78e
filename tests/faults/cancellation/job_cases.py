"""The coroutines of a job's queue, and the workers."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from specstar import QB, JobStatus
from specstar.errors import JobNotFoundError, WaitTimeoutError
from specstar.message_queue import WorkerStop
from tests.faults.cancellation.place import Case, Mail, Place

__all__ = ["JOB_CASES"]


async def fresh(place: Place) -> int:
    return place.number()


async def waiting(place: Place) -> tuple[str, int]:
    number = place.number()
    return (await place.mail.enqueue(Mail(number))).job_id, number


async def delayed(place: Place) -> tuple[str, int]:
    """A job that no worker of another case takes up meanwhile."""
    number = place.number()
    return (await place.mail.enqueue(Mail(number), delay=300)).job_id, number


async def three_waiting(place: Place) -> list[tuple[str, int]]:
    return [await waiting(place) for _ in range(3)]


async def finished(place: Place) -> tuple[str, int]:
    job_id, number = await waiting(place)
    await place.mail.cancel(job_id)
    return job_id, number


async def two_finished(place: Place) -> list[tuple[str, int]]:
    return [await finished(place) for _ in range(2)]


async def look_for_state(place: Place, subjects: list[tuple[str, int]]) -> Any:
    """Whether the state of each is there, and can be found."""
    there = {job.job_id for job in await place.mail.search(status=JobStatus.cancelled, limit=20)}
    for job_id, _ in subjects:
        if job_id not in there:
            with pytest.raises(JobNotFoundError):
                await place.mail.get(job_id)
    return [job_id in there for job_id, _ in subjects]


async def two_dead(place: Place) -> list[tuple[str, int]]:
    numbers = [place.number(), place.number()]
    jobs = await place.mail.enqueue_many([Mail(number, fails=True) for number in numbers])
    ids = [job.job_id for job in jobs]
    await place.work_off(ids)

    async def parked() -> bool:
        return {*ids} <= {letter.job_id for letter in await place.mail.list_dead(limit=10_000)}

    while not await parked():
        pass
    return list(zip(ids, numbers, strict=True))


async def look_at_number(place: Place, number: int) -> Any:
    """How many jobs carry the number; one that is there can be run to its end, and its message is no phantom."""
    found = [job for job in await place.newest() if job.payload.number == number]
    await place.work_off([job.job_id for job in found])
    assert place.ran[number] >= len(found)
    return len(found)


async def look_at_key(place: Place, number: int) -> Any:
    """Sent again with its key, it is one job, which can be run to its end."""
    job = await place.mail.enqueue(Mail(number), idempotency_key=f"key {number}")
    await place.work_off([job.job_id])
    assert place.ran[number] >= 1
    return len([job for job in await place.newest() if job.payload.number == number])


async def look_at_two(place: Place, number: int) -> Any:
    return [await look_at_number(place, number), await look_at_number(place, -number)]


async def look_at_status(place: Place, subject: tuple[str, int]) -> Any:
    return (await place.mail.get(subject[0])).status


async def look_at_statuses(place: Place, subjects: list[tuple[str, int]]) -> Any:
    return [await look_at_status(place, subject) for subject in subjects]


async def look_at_dead(place: Place, subjects: list[tuple[str, int]]) -> Any:
    """Whether each is still among the dead letters."""
    dead = [letter.job_id for letter in await place.mail.list_dead(limit=10_000)]
    return [dead.count(job_id) for job_id, _ in subjects]


async def look_at_requeued(place: Place, subjects: list[tuple[str, int]]) -> Any:
    """Requeued again, each runs again and dies again: none is stuck between the two."""
    ids = [job_id for job_id, _ in subjects]
    await place.mail.requeue_dead(ids)

    async def ran_again() -> bool:
        return all(place.ran[number] >= 2 for _, number in subjects)

    await place.work_until(ran_again)
    await place.work_off(ids)
    return [(await place.mail.get(job_id)).status for job_id in ids]


async def wait_in_vain(place: Place, subject: tuple[str, int]) -> Any:
    with contextlib.suppress(WaitTimeoutError):
        await place.mail.wait(subject[0], timeout=0.06)


async def look_for_watchers(place: Place, subject: tuple[str, int]) -> Any:
    assert subject[0] not in place.mail._watchers
    return await look_at_status(place, subject)


async def run_workers(place: Place, subjects: list[tuple[str, int]]) -> Any:
    stop = WorkerStop()

    def stop_after_all() -> None:
        if all(place.ran[number] for _, number in subjects):
            stop.set()

    place.when_ran = stop_after_all
    try:
        await place.spec.run_workers(concurrency=2, stop=stop, handle_signals=False, drain_timeout=5)
    finally:
        place.when_ran = None


async def look_after_workers(place: Place, subjects: list[tuple[str, int]]) -> Any:
    """The next workers find what the cancelled ones left: every job ends, and ran."""
    await place.work_off([job_id for job_id, _ in subjects])
    assert all(place.ran[number] for _, number in subjects)
    assert not place.mail._lanes
    return await look_at_statuses(place, subjects)


def _case(name: str, *arguments: Any, **options: Any) -> Case:
    return Case(f"JobQueue.{name}", *arguments, **options)


JOB_CASES = [
    _case("enqueue", fresh, lambda p, s: p.mail.enqueue(Mail(s)), look_at_number),
    _case(
        "enqueue",
        fresh,
        lambda p, s: p.mail.enqueue(Mail(s), idempotency_key=f"key {s}"),
        look_at_key,
        note="with a key",
    ),
    _case("enqueue", fresh, lambda p, s: p.mail.enqueue(Mail(s), delay=0.01), look_at_number, note="later"),
    _case("enqueue_many", fresh, lambda p, s: p.mail.enqueue_many([Mail(s), Mail(-s)]), look_at_two, parts=True),
    _case("get", waiting, lambda p, s: p.mail.get(s[0])),
    _case("wait", delayed, wait_in_vain, look_for_watchers),
    _case("search", waiting, lambda p, s: p.mail.search(QB["attempts"] == 0, limit=3)),
    _case("count", waiting, lambda p, s: p.mail.count(status=JobStatus.pending)),
    _case("depth", waiting, lambda p, s: p.mail.depth()),
    _case("cancel", waiting, lambda p, s: p.mail.cancel(s[0]), look_at_status),
    _case("purge", three_waiting, lambda p, s: p.mail.purge(), look_at_statuses, parts=True, alone=True),
    _case(
        "forget_finished", two_finished, lambda p, s: p.mail.forget_finished(older_than=0), look_for_state, parts=True
    ),
    _case("list_dead", two_dead, lambda p, s: p.mail.list_dead(), look_at_dead, parts=True),
    _case(
        "requeue_dead", two_dead, lambda p, s: p.mail.requeue_dead([one[0] for one in s]), look_at_requeued, parts=True
    ),
    _case("purge_dead", two_dead, lambda p, s: p.mail.purge_dead([one[0] for one in s]), look_at_dead, parts=True),
    Case("SpecStar.run_workers", three_waiting, run_workers, look_after_workers),
]
