"""What tests with those fixtures look like."""

from __future__ import annotations

import anyio
import msgspec

from specstar import Job, SpecStar
from specstar import sync as blocking


class User(msgspec.Struct):
    name: str


async def test_a_user_is_stored(spec: SpecStar) -> None:
    users = spec.add_model(User)
    info = await users.create(User("Ada"))
    assert (await users.get(info.resource_id)).data.name == "Ada"


async def test_a_job_runs(spec: SpecStar) -> None:
    @spec.job
    async def greet(job: Job[User]) -> str:
        return f"hello {job.payload.name}"

    job = await greet.enqueue(User("Ada"))
    async with anyio.create_task_group() as group:
        group.start_soon(spec.run_workers)
        done = await greet.wait(job.job_id, timeout=10)
        group.cancel_scope.cancel()
    assert done.result == "hello Ada"


def test_a_job_is_sent(sync_spec: blocking.SpecStar) -> None:
    def greet(job: Job[User]) -> str:
        return f"hello {job.payload.name}"

    queue = sync_spec.add_job(User, greet)
    job = queue.enqueue(User("Ada"))
    assert queue.depth() == 1
    assert queue(job) == "hello Ada"  # the handler itself, without a worker
    assert queue.purge() == 1
