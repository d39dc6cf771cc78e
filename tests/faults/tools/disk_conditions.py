"""Under the shim: a disk that is full, read-only, or not ours any more, again and again; what is refused then and works after.

The disk is a small tmpfs in a mount namespace of this process alone. Where mounting is not permitted the shim plays it: a
quota of bytes, and calls that fail with EROFS. Prints the counts as JSON.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from specstar.errors import BackendError
from tests.faults.ledger import Figures
from tests.faults.tools.failing_calls import SMALL, Note, Store, opened
from tests.faults.tools.file_faults import Call, FileFaults

__all__ = ["CONDITIONS"]

_CLONE_NEWNS, _MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 1, 32, 4096, 16384, 1 << 18
_PR_CAPBSET_DROP = 24
# Root is bound by permissions like everybody without these two (capabilities(7)).
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_REEXECUTED = "SPECSTAR_TEST_WITHOUT_DAC_OVERRIDE"
_CHANGES_AT_ALL = Call.WRITE | Call.RENAME | Call.LINK | Call.UNLINK | Call.MKDIR | Call.TRUNCATE
_libc = ctypes.CDLL(None, use_errno=True)


def _mount(kind: str | None, place: Path, flags: int, options: str = "") -> bool:
    done = _libc.mount(
        b"none", os.fsencode(place), kind.encode() if kind else None, ctypes.c_ulong(flags), options.encode()
    )
    return bool(done == 0)


class Disk:
    """A small disk under `place`: a tmpfs, or what the shim makes of a folder."""

    def __init__(self, place: Path, size: int) -> None:
        place.mkdir()
        self.place = place
        self.faults = FileFaults(place)
        self.size = size
        self.mounted = (
            _libc.unshare(_CLONE_NEWNS) == 0
            and _mount(None, Path("/"), _MS_REC | _MS_PRIVATE)
            and _mount("tmpfs", place, 0, f"size={size}")
        )

    def fill(self) -> None:
        """From now on the disk has the size it was given."""
        if not self.mounted:
            self.faults.quota(self.size // 4)
        else:
            assert _mount("tmpfs", self.place, _MS_REMOUNT, f"size={self.used() + self.size // 4}")

    def used(self) -> int:
        found = os.statvfs(self.place)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def make_room(self) -> None:
        if not self.mounted:
            self.faults.quota(None)
        else:
            assert _mount("tmpfs", self.place, _MS_REMOUNT, f"size={self.used() + 4 * self.size}")

    def read_only(self, *, in_use: bool) -> None:
        """Nothing can be changed. A file system with files open for writing cannot be remounted so: the shim plays it."""
        if self.mounted and not in_use:
            assert _mount(None, self.place, _MS_REMOUNT | _MS_BIND | _MS_RDONLY)
        else:
            self.faults.arm(error=errno.EROFS, first=1, times=1 << 30, calls=_CHANGES_AT_ALL)

    def writable(self) -> None:
        self.faults.disarm()
        if self.mounted:
            assert _mount(None, self.place, _MS_REMOUNT | _MS_BIND)


class Trial:
    """Calls on one store, and what became of them."""

    def __init__(self, store: Store, figures: Figures, *, before: int = 0) -> None:
        """`before`: the number of calls that earlier trials may have made in this folder, so that no id comes twice."""
        self.store = store
        self.figures = figures
        self._numbers = before

    async def one(self) -> bool:
        """Some call; False if it was refused. Only a `BackendError` may say so, and nothing of it may be there."""
        store = self.store
        self._numbers += 1
        key = f"r{self._numbers}"
        content = random.randbytes(3000)
        text = random.choice([SMALL, "L" * random.choice([400, 5000])])
        kind = random.choice(["create", "update", "blob"]) if "first" in store.allowed else "create"
        began = time.monotonic()
        try:
            if kind == "blob":
                store.blobs[content] = {False}
                await store.spec.blobs.put(content)
                store.blobs[content] = {True}
            else:
                name = key if kind == "create" else "first"
                store.allowed.setdefault(name, {None})
                call: Callable[[], Awaitable[object]] = (
                    (lambda: store.notes.create(Note(text), resource_id=name))
                    if kind == "create"
                    else (lambda: store.notes.update(name, Note(text)))
                )
                await call()
                store.allowed[name] = {text}
        except BackendError as error:
            if not any(advice in str(error) for advice in (";", "check", "free some space")):
                raise AssertionError(f"no advice: {error}") from error
            self.figures.faults += 1
            return False
        finally:
            self.figures.longest_stall = max(self.figures.longest_stall, time.monotonic() - began)
        self.figures.acknowledged += 1
        return True

    async def works(self) -> None:
        """The cause is gone: each kind of call works, the first one too."""
        for _ in range(6):
            assert await self.one(), "still refused"
        await self.store.check()


async def _begun(store: Store) -> None:
    await store.notes.create(Note(SMALL), resource_id="first")
    store.allowed["first"] = {SMALL}


async def full(work: Path, figures: Figures, rounds: int) -> None:
    disk = Disk(work / "disk", 256 << 10)
    root = disk.place / "root"
    async with opened(root) as store:
        disk.make_room()
        await _begun(store)
        trial = Trial(store, figures)
        for _ in range(rounds):
            disk.fill()
            refused = 0
            while refused < 8:
                refused += not await trial.one()
            await store.check()
            disk.make_room()
            await trial.works()
    async with opened(root) as again:
        again.allowed, again.blobs = store.allowed, store.blobs
        await again.check()


async def read_only(work: Path, figures: Figures, rounds: int) -> None:
    disk = Disk(work / "disk", 64 << 20)
    kept: dict[Path, Store] = {}
    for number in range(rounds):
        root = disk.place / f"root{number % 3}"
        disk.read_only(in_use=False)
        async with opened(root) as store:
            if root in kept:
                store.allowed, store.blobs = kept[root].allowed, kept[root].blobs
            trial = Trial(store, figures, before=number * 1000)
            for _ in range(3):
                assert not await trial.one(), "accepted on a read-only disk"
            disk.writable()
            if root not in kept:
                await _begun(store)
            kept[root] = store
            await trial.works()
            disk.read_only(in_use=True)
            for _ in range(6):
                assert not await trial.one(), "accepted on a disk that became read-only"
            await store.check()
            disk.writable()
            await trial.works()


async def permission_lost(work: Path, figures: Figures, rounds: int) -> None:
    home = work / "home"
    home.mkdir()
    root = home / "root"
    async with opened(root) as store:
        trial = Trial(store, figures)
        home.chmod(0o500)
        assert not await trial.one(), "accepted without permission to make the folder"
        home.chmod(0o700)
        await _begun(store)
        for _ in range(rounds):
            for folder in _folders(root):
                folder.chmod(0o500)
            # What is open stays so, and the database can be written; files cannot be made.
            outcomes = [await trial.one() for _ in range(12)]
            assert not all(outcomes)
            await store.check()
            for folder in _folders(root):
                folder.chmod(0o700)
            await trial.works()
    root.chmod(0o000)
    async with opened(root) as again:
        assert not await Trial(again, figures).one(), "accepted in a folder that may not be entered"
        root.chmod(0o700)
        again.allowed, again.blobs = store.allowed, store.blobs
        await again.check()


def _folders(root: Path) -> list[Path]:
    return [root, *(path for path in root.rglob("*") if path.is_dir())]


CONDITIONS = {"full": full, "read-only": read_only, "permission lost": permission_lost}


def _without_special_rights() -> None:
    """Begin anew as a root that permissions bind."""
    if os.geteuid() == 0 and not os.environ.get(_REEXECUTED):
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "cannot give up a capability")
        arguments = [sys.executable, "-W", "error", "-m", "tests.faults.tools.disk_conditions", *sys.argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, _REEXECUTED: "1"})


def main() -> None:
    work, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    if settings["condition"] == "permission lost":
        _without_special_rights()
    random.seed(settings["seed"])
    figures = Figures(name="")
    asyncio.run(CONDITIONS[settings["condition"]](work, figures, settings["rounds"]))
    print(figures.encoded())


if __name__ == "__main__":
    main()
