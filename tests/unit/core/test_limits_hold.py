"""Limits of names and texts hold where the program gives them; others are tested beside what they limit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import Struct

from specstar import Job, SpecStar
from specstar.errors import InvalidInputError, LimitExceededError, QueryError
from specstar.query import IndexedField

MEMORY: dict[str, Any] = {"meta": {"type": "memory"}, "resource": {"type": "memory"}, "mq": {"type": "simple"}}


class Note(Struct):
    text: str = ""


@pytest.fixture
async def spec(anyio_backend: object) -> AsyncIterator[SpecStar]:
    spec = SpecStar()
    spec.configure(backend=MEMORY)
    async with spec:
        yield spec


async def test_ids_and_users_have_1024_bytes(spec: SpecStar) -> None:
    notes = spec.add_model(Note)
    longest = "é" * 512
    with notes.using(user=longest):
        info = await notes.create(Note(), resource_id=longest)
    assert (await notes.get_meta(info.resource_id)).created_by == longest
    with pytest.raises(LimitExceededError) as caught:
        notes.using(user=longest + "x").__enter__()
    assert (caught.value.field, caught.value.limit, caught.value.actual) == ("user", 1024, 1025)
    with pytest.raises(LimitExceededError) as caught:
        await notes.create(Note(), resource_id=longest + "x")
    assert (caught.value.field, caught.value.limit, caught.value.actual) == ("resource_id", 1024, 1025)


async def test_names_of_jobs_and_their_keys_are_bounded(spec: SpecStar) -> None:
    async def handler(job: Job[Note]) -> None: ...

    spec.add_job(Note, handler, name="x" * 1024)
    with pytest.raises(LimitExceededError) as caught:
        spec.add_job(Note, handler, name="x" * 1025)
    assert caught.value.field == "name"
    queue = spec.add_job(Note, handler, name="notes")
    keys: Any = {"partition_key": "é" * 127 + "x", "idempotency_key": "x" * 255}
    await queue.enqueue(Note(), **keys)
    for name, key in keys.items():
        with pytest.raises(LimitExceededError) as caught:
            await queue.enqueue(Note(), **{name: key + "x"})
        assert (caught.value.field, caught.value.limit, caught.value.actual) == (name, 255, 256)


async def test_times_and_priorities_of_jobs_are_bounded(spec: SpecStar) -> None:
    async def handler(job: Job[Note]) -> None: ...

    year = 31_536_000
    queue = spec.add_job(Note, handler, name="notes", retry_delay=year, retry_max_delay=year, max_retries=1000)
    await queue.enqueue(Note(), delay=year, priority=9)
    for options in ({"delay": year + 1}, {"priority": 10}):
        with pytest.raises(InvalidInputError):
            await queue.enqueue(Note(), **options)  # type: ignore[arg-type]
    wrong: list[dict[str, Any]] = [
        {"retry_delay": year + 1}, {"retry_max_delay": year + 1}, {"max_retries": 1001}, {"timeout": year + 1},
    ]  # fmt: skip
    for more in wrong:
        with pytest.raises(InvalidInputError):
            spec.add_job(Note, handler, name="other", **more)


async def test_a_content_type_has_255_characters(spec: SpecStar) -> None:
    info = await spec.blobs.put(b"x", content_type="t/" + "x" * 253)
    assert len(info.content_type) == 255
    with pytest.raises(InvalidInputError, match="at most 255"):
        await spec.blobs.put(b"x", content_type="t/" + "x" * 254)


def test_the_path_of_a_field_has_200_characters() -> None:
    assert IndexedField("x" * 200).path == "x" * 200
    with pytest.raises(QueryError, match="not the path of a field"):
        IndexedField("x" * 201)
