"""The coroutines of `SpecStar` itself, and first calls, which open connections and make tables."""

from __future__ import annotations

from typing import Any

from tests.faults.cancellation.place import Case, Mail, Place, User

__all__ = ["SPEC_CASES"]


async def unopened(place: Place) -> Place:
    return await place.another()


async def opened(place: Place) -> Place:
    other = await place.another()
    await use(other)
    return other


async def use(other: Place) -> None:
    """Every role once."""
    info = await other.users.create(User("Ann", 1))
    assert (await other.users.get(info.resource_id)).data == User("Ann", 1)
    blob = await other.spec.blobs.put(b"some bytes")
    assert await other.spec.blobs.get(blob.file_id) == b"some bytes"
    job = await other.mail.enqueue(Mail(other.number()))
    await other.mail.cancel(job.job_id)


async def works(place: Place, other: Place) -> Any:
    await use(other)
    return "works"


async def nothing(place: Place) -> None:
    return None


async def check(place: Place, other: Place) -> Any:
    reports = await other.spec.check()
    assert not [report for report in reports if not report.ok], reports


async def configure(place: Place, other: Place) -> Any:
    await other.spec.configure(backend=place.backend)


async def enter_and_leave(place: Place, other: Place) -> Any:
    async with other.spec:
        await other.users.exists("no")


def _case(name: str, *arguments: Any, **options: Any) -> Case:
    return Case(f"SpecStar.{name}", *arguments, **options)


SPEC_CASES = [
    _case("check", unopened, check, works, own=True),
    _case("sync", nothing, lambda p, s: p.spec.sync()),
    _case("collect_garbage", nothing, lambda p, s: p.spec.collect_garbage()),
    _case("aclose", opened, lambda p, s: s.spec.aclose(), works, own=True),
    _case("__aexit__", opened, enter_and_leave, works, own=True),
    Case("Configured.__await__", opened, configure, works, own=True),
    Case("ResourceManager.create", unopened, lambda p, s: s.users.create(User("Ann")), works, own=True, note="first"),
    Case("BlobManager.put", unopened, lambda p, s: s.spec.blobs.put(b"bytes"), works, own=True, note="first"),
    Case("JobQueue.enqueue", unopened, lambda p, s: s.mail.enqueue(Mail(1)), works, own=True, note="first"),
]
