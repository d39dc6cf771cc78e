"""Under the shim: fail the k-th file call of each operation, for each k until none fails, and check what is left.

Prints the counts as JSON. Every operation works on ids of its own, so that the ledger knows for each what may be there.
"""

from __future__ import annotations

import asyncio
import errno
import json
import random
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import apsw
from msgspec import Struct

from specstar import QB, SpecStar
from specstar.backends.disk.durable import TempFolder
from specstar.backends.disk.payload_files import PayloadFiles
from specstar.backends.sqlite.names import table_suffix
from specstar.errors import (
    BackendError,
    BlobNotFoundError,
    DuplicateResourceError,
    OutcomeUnknownError,
    ResourceNotFoundError,
)
from specstar.resource_manager import ResourceManager
from specstar.roles import PayloadKey
from tests.faults.ledger import Figures
from tests.faults.tools.file_faults import SHORT_WRITE, FileFaults

INLINE = 100
SMALL, LARGE = "s", "L" * 400
# One write of half its bytes, a disk that fails once, one that is full from then on, one that is broken from then on.
FAULTS = {
    "short": (SHORT_WRITE, 1),
    "EIO": (errno.EIO, 1),
    "ENOSPC": (errno.ENOSPC, 1 << 30),
    "broken": (errno.EIO, 1 << 30),
}


class Note(Struct):
    text: str
    number: int = 0


Notes = ResourceManager[Note]


class Store:
    """One open root, and what may be in it: for each id the texts that a read may give; None: not there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spec = SpecStar()
        self.notes: Notes = self.spec.add_model(Note, name="notes", indexed_fields=["number"])
        options = {"rootdir": str(root), "inline_payload_bytes": INLINE, "reader_threads": 1}
        self.spec.configure(
            backend={role: {"type": "disk", "options": options} for role in ("meta", "resource", "blob")}
        )
        self.allowed: dict[str, set[str | None]] = {}
        self.blobs: dict[bytes, set[bool]] = {}

    async def found(self, resource_id: str) -> str | None:
        try:
            return (await self.notes.get(resource_id)).data.text
        except ResourceNotFoundError:
            return None

    async def has_blob(self, content: bytes) -> bool:
        try:
            return await self.spec.blobs.get(_id_of(content)) == content
        except BlobNotFoundError:
            return False

    async def check(self, *, only: str | None = None) -> None:
        """Every id reads as it may, and search agrees with reads."""
        ids = [only] if only is not None else list(self.allowed)
        for resource_id in ids:
            if resource_id in self.allowed:
                found = await self.found(resource_id)
                allowed = self.allowed[resource_id]
                assert found in allowed, f"{resource_id}: found {found!r:.20}, allowed {allowed!r:.60}"
        if only is None:
            listed = {resource.info.resource_id: resource.data.text for resource in await self.notes.search()}
            for resource_id, allowed in self.allowed.items():
                assert listed.get(resource_id) in allowed, f"{resource_id}: search and reads differ"
            assert await self.notes.count(QB["number"] >= 0) == len(listed)
            for content, permitted in self.blobs.items():
                assert await self.has_blob(content) in permitted, f"blob {content!r:.20}"


def _id_of(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


@asynccontextmanager
async def opened(root: Path) -> AsyncIterator[Store]:
    store = Store(root)
    try:
        yield store
    finally:
        await store.spec.aclose()


async def reopened(root: Path, allowed: dict[str, set[str | None]], blobs: dict[bytes, set[bool]], copy: Path) -> None:
    """What a new process would find if this one ended now."""
    if root.exists():  # noqa: ASYNC240  nothing else runs on this loop
        shutil.copytree(root, copy)
    try:
        async with opened(copy) as store:
            store.allowed, store.blobs = allowed, blobs
            await store.check()
        connection = apsw.Connection(str(copy / "specstar.sqlite3"))
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
    finally:
        shutil.rmtree(copy)


class Round:
    """The faults of one operation."""

    def __init__(self, work: Path, faults: FileFaults, figures: Figures, copy_every: int) -> None:
        self.work = work
        self.faults = faults
        self.figures = figures
        self.copy_every = copy_every

    async def attempt(
        self, store: Store, k: int, fault: str, key: str, new: str | None, call: Callable[[], Awaitable[object]]
    ) -> bool:
        """One call with its k-th file call failing; True if one failed. Afterwards the ledger knows what may be there."""
        error, times = FAULTS[fault]
        old = store.allowed.get(key, {None})
        acknowledged = False
        self.faults.arm(error=error, first=k, times=times)
        began = time.monotonic()
        try:
            await call()
            acknowledged = True
            store.allowed[key] = {new}
        except OutcomeUnknownError:
            store.allowed[key] = old | {new}
        except BackendError as refused:
            if refused.__cause__ is None and ";" not in str(refused):
                raise AssertionError(f"no cause and no advice: {refused}") from refused
            store.allowed[key] = old
        finally:
            fired = self.faults.disarm()
        self.figures.longest_stall = max(self.figures.longest_stall, time.monotonic() - began)
        self.figures.faults += bool(fired)
        self.figures.acknowledged += acknowledged
        assert acknowledged or fired, "refused without a fault"
        if fired and k % self.copy_every == 0:
            await reopened(store.root, store.allowed, store.blobs, self.work / "copy")
        await store.check(only=key)
        return bool(fired)

    async def after(self, store: Store, name: str) -> None:
        """The fault is gone: the very next calls work."""
        await store.notes.create(Note(SMALL), resource_id=name)
        await store.notes.update(name, Note(LARGE))
        store.allowed[name] = {LARGE}
        await store.check(only=name)


async def run(work: Path, faults: FileFaults, settings: dict[str, object]) -> Figures:
    figures = Figures(name="")
    kinds = [str(kind) for kind in settings["faults"]]  # type: ignore[attr-defined]
    one = Round(work, faults, figures, int(str(settings["copy_every"])))
    for name in settings["operations"]:  # type: ignore[attr-defined]
        operation = OPERATIONS[name]
        for fault in random.sample(kinds, len(kinds)):
            before = figures.faults
            where = f"{name} with {fault}"
            try:
                await operation(one, work / f"{name}-{fault}", fault)
            except Exception as error:
                raise AssertionError(f"{where}, seed {settings['seed']}: {error!r}") from error
            # A short run is content with the first kind that met a call: a collection writes nothing that could be cut short.
            if not settings["all"] and figures.faults > before:
                break
    return figures


async def _loop(
    one: Round,
    root: Path,
    fault: str,
    prepare: Callable[[Store, str], Awaitable[None]] | None,
    call: Callable[[Store, str], Awaitable[object]],
    new: str | None,
) -> None:
    async with opened(root) as store:
        await one.after(store, "first")
        k = 0
        fired = True
        while fired:
            k += 1
            key = f"r{k}"
            if prepare is not None:
                await prepare(store, key)
            fired = await one.attempt(store, k, fault, key, new, lambda key=key: call(store, key))  # type: ignore[misc]
            await one.after(store, f"after{k}")
        assert k > 1, "no file call was made"
        await store.check()
        await reopened(root, store.allowed, store.blobs, one.work / "copy")


async def _made(store: Store, key: str, text: str) -> None:
    await store.notes.create(Note(text), resource_id=key)
    store.allowed[key] = {text}


async def create_small(one: Round, root: Path, fault: str) -> None:
    await _loop(one, root, fault, None, lambda store, key: store.notes.create(Note(SMALL), resource_id=key), SMALL)


async def create_large(one: Round, root: Path, fault: str) -> None:
    await _loop(one, root, fault, None, lambda store, key: store.notes.create(Note(LARGE), resource_id=key), LARGE)


async def update(one: Round, root: Path, fault: str) -> None:
    await _loop(
        one,
        root,
        fault,
        lambda store, key: _made(store, key, SMALL),
        lambda store, key: store.notes.update(key, Note(LARGE)),
        LARGE,
    )


async def delete(one: Round, root: Path, fault: str) -> None:
    await _loop(
        one, root, fault, lambda store, key: _made(store, key, LARGE), lambda store, key: store.notes.delete(key), None
    )


async def erase(one: Round, root: Path, fault: str) -> None:
    await _loop(
        one,
        root,
        fault,
        lambda store, key: _made(store, key, LARGE),
        lambda store, key: store.notes.permanently_delete(key),
        None,
    )


async def put_blob(one: Round, root: Path, fault: str) -> None:
    async with opened(root) as store:
        await store.spec.blobs.put(b"first")
        store.blobs[b"first"] = {True}
        k = 0
        fired = True
        while fired:
            k += 1
            content = b"blob %d" % k * 50
            store.blobs[content] = {False}

            async def put(content: bytes = content, k: int = k) -> None:
                store.blobs[content] = {True, False}
                if k % 2:
                    await store.spec.blobs.put(content)
                else:
                    session = await store.spec.blobs.create_upload(size=len(content))
                    await store.spec.blobs.upload(session.upload_id, content)
                    await store.spec.blobs.finalize(session.upload_id)
                store.blobs[content] = {True}

            fired = await one.attempt(store, k, fault, "none", None, put)
            await store.spec.blobs.put(content)
            store.blobs[content] = {True}
            await store.check()
        await reopened(root, store.allowed, store.blobs, one.work / "copy")


async def collect_garbage(one: Round, root: Path, fault: str) -> None:
    async with opened(root) as store:
        await _made(store, "kept", LARGE)
        lost = PayloadFiles(root, table_suffix("notes"), TempFolder(root / "_tmp"))
        await store.spec.blobs.put(b"kept")
        store.blobs[b"kept"] = {True}
        k = 0
        fired = True
        while fired:
            k += 1
            # What a killed writer leaves: a payload without a row, an upload that nobody goes on with.
            lost.write([(PayloadKey("lost", f"payload{k}"), b"{}")])
            session = await store.spec.blobs.create_upload()
            await store.spec.blobs.upload(session.upload_id, b"unfinished")
            fired = await one.attempt(
                store, k, fault, "none", None, lambda: store.spec.collect_garbage(older_than_seconds=-1)
            )
            await store.check()
            await store.spec.collect_garbage(older_than_seconds=-1)
            await store.check()
        assert list((root / "_blobs" / "_uploads").iterdir()) == []
        assert len([path for path in (root / "_payloads").rglob("*") if path.is_file()]) == 1


async def first_use(one: Round, root: Path, fault: str) -> None:
    k = 0
    fired = True
    while fired:
        k += 1
        place = root / str(k)
        async with opened(place) as store:
            fired = await one.attempt(
                store, k, fault, "first", LARGE, lambda: store.notes.create(Note(LARGE), resource_id="first")
            )
            try:
                await store.notes.create(Note(SMALL), resource_id="first")
            except DuplicateResourceError:
                assert store.allowed["first"] != {None}
            else:
                store.allowed["first"] = {SMALL}
            await one.after(store, "second")
        shutil.rmtree(place)
    assert k > 20


OPERATIONS: dict[str, Callable[[Round, Path, str], Awaitable[None]]] = {
    "create": create_small,
    "create with a file": create_large,
    "update": update,
    "delete": delete,
    "erase": erase,
    "put a blob": put_blob,
    "collect garbage": collect_garbage,
    "first use": first_use,
}


def main() -> None:
    work, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    random.seed(settings["seed"])
    faults = FileFaults(work)
    print(asyncio.run(run(work, faults, settings)).encoded())


if __name__ == "__main__":
    main()
