"""The coroutines of `SpecStar` itself, and first calls, which open connections and make tables."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from typing import Any

from specstar import SpecStar
from tests.faults.cancellation.place import Case, Mail, Place, User
from tests.faults.tools.bindings import is_durable

__all__ = ["SPEC_CASES"]

MEMORY = {"type": "memory"}


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


class Copied(Place):
    """One in memory, with something to copy: to where the case's place is, or to a folder if that is memory too."""

    def __init__(self, place: Place) -> None:
        super().__init__({"meta": MEMORY, "resource": MEMORY, "blob": MEMORY, "mq": {"type": "simple"}})
        self.target = place.backend
        self.name = f"copied{self.number()}"
        if not is_durable(place.backend):
            folder = tempfile.mkdtemp()
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            disk = {"type": "disk", "options": {"rootdir": folder}}
            self.target = {"meta": disk, "resource": disk, "blob": disk}

    async def copy(self) -> None:
        reports = await self.spec.copy_to(self.target)
        assert all(report.ok for report in reports), reports


async def to_copy(place: Place) -> Place:
    home = place.spec._gate.home
    other = Copied(place)
    await other.copy()  # nothing yet; the home is one that both backends can use
    await other.settle(away=home is not None and not home.is_current())
    for number in range(3):
        await other.users.create(User("Ann", number), resource_id=f"{other.name}-{number}")
    for number in range(3):
        await other.users.update(f"{other.name}-1", User("Bob", number))
    await other.users.delete(f"{other.name}-2")
    if other.target["blob"]["type"] != "memory":
        await other.spec.blobs.put(place.bytes(place.number()))
    return other


async def copy(place: Place, other: Place) -> Any:
    assert isinstance(other, Copied)
    await other.copy()


async def copied(place: Place, other: Place) -> Any:
    """Whatever an interrupted copy has left, the next one makes it whole."""
    assert isinstance(other, Copied)
    await other.copy()
    target = SpecStar()
    users = target.add_model(User, indexed_fields=["name", "age", "group"])
    target.configure(backend=other.target)
    async with target:
        assert (await users.get(f"{other.name}-1")).data == User("Bob", 2)
        return [(await users.get_meta(f"{other.name}-{number}")).revision_count for number in range(3)]


def _case(name: str, *arguments: Any, **options: Any) -> Case:
    return Case(f"SpecStar.{name}", *arguments, **options)


SPEC_CASES = [
    _case("check", unopened, check, works, own=True),
    _case("sync", nothing, lambda p, s: p.spec.sync()),
    _case("collect_garbage", nothing, lambda p, s: p.spec.collect_garbage()),
    _case("copy_to", to_copy, copy, copied, own=True),
    _case("aclose", opened, lambda p, s: s.spec.aclose(), works, own=True),
    _case("__aexit__", opened, enter_and_leave, works, own=True),
    Case("Configured.__await__", opened, configure, works, own=True),
    Case("ResourceManager.create", unopened, lambda p, s: s.users.create(User("Ann")), works, own=True, note="first"),
    Case("BlobManager.put", unopened, lambda p, s: s.spec.blobs.put(b"bytes"), works, own=True, note="first"),
    Case("JobQueue.enqueue", unopened, lambda p, s: s.mail.enqueue(Mail(1)), works, own=True, note="first"),
]
