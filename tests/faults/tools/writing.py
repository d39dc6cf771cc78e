"""Many callers that write until they are killed, and say of each write that it begins and that it was acknowledged.

Records: `began, key, state` and `done, key, revision_id`, where the state is what a reader must find if the write was made;
`blob_began, seed, size` (from now on it may be there, or not) and `blob_done, seed, size`.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import anyio
import msgspec

from specstar import SpecStar
from specstar.backends.s3 import meta_database
from specstar.backends.sqlite import database_file
from specstar.resource_manager import ResourceManager
from specstar.roles import RevisionInfo
from tests.faults.tools.kill_points import die_at

# Imported here, before the fork, and not by each process.
for _name in ("apsw", "asyncpg", "aioboto3", "botocore.endpoint", "trio", "uvloop"):
    __import__(_name)

__all__ = ["MODELS", "Orders", "State", "Thing", "blob_of", "declared", "model_of", "text_of", "write"]

MODELS = ("apples", "pears", "plums")


class Thing(msgspec.Struct):
    """What is written. `text` follows from the other three, so that half of another one shows."""

    key: str
    serial: int
    round: int
    text: str


class State(msgspec.Struct, frozen=True):
    """What a reader must find of one resource."""

    serial: int
    round: int
    size: int
    deleted: bool = False
    draft: bool = False
    revisions: int = 1
    revision_id: str = ""


class Orders(msgspec.Struct, frozen=True):
    """What a writing process is to do. `known`: resources of earlier processes to go on with."""

    backend: dict[str, Any]
    round: int
    seed: int
    known: dict[str, State]
    callers: int = 64
    loop: str = "asyncio"
    small: int = 400
    large: int = 20_000
    blob: int = 60_000
    long_blob: int = 0
    """Size of a blob that one caller sends in chunks, again and again; 0: none."""
    die_at: str = ""
    """Where to die: the name of a point in `tests.faults.tools.kill_points`."""
    die_after: int = 0
    """How many passages of that point to survive."""
    s3_whole: int | None = None
    """Up to how many bytes metadata on S3 is pushed whole, where that is not what the program has for users."""
    log_pages: int | None = None
    """From how many pages on the log of a database on disk is brought into it, likewise."""


def text_of(key: str, serial: int, size: int) -> str:
    """The text of a thing."""
    piece = f"{key}/{serial} "
    return (piece * (size // len(piece) + 1))[:size]


def blob_of(seed: int, size: int) -> bytes:
    """The bytes of a blob."""
    return random.Random(seed).randbytes(size)


def model_of(key: str) -> str:
    """The model that a key belongs to."""
    return key.partition(":")[0]


def declared(spec: SpecStar) -> dict[str, ResourceManager[Thing]]:
    """The models, by name."""
    fields = ["key", "serial", "round"]
    return {name: spec.add_model(Thing, name=name, indexed_fields=fields) for name in MODELS}


def write(told: Callable[..., None], orders: bytes) -> None:
    """The program of the process: `orders` in msgpack."""
    what = msgspec.msgpack.decode(orders, type=Orders)
    if what.die_at:
        die_at(what.die_at, what.die_after)
    if what.s3_whole is not None:
        meta_database.SMALL = what.s3_whole
    if what.log_pages is not None:
        database_file.WAL_PAGES, database_file._FEW_PAGES = what.log_pages, what.log_pages // 8
        database_file._LOOK_SECONDS = 0.001
    # A writer whose test has gone ends by itself.
    signal.alarm(120)
    options = {"use_uvloop": True} if what.loop == "uvloop" else {}
    anyio.run(_write, told, what, backend="trio" if what.loop == "trio" else "asyncio", backend_options=options)


async def _write(told: Callable[..., None], orders: Orders) -> None:
    spec = SpecStar()
    spec.configure(backend=orders.backend)
    managers = declared(spec)
    keys = sorted(orders.known)
    async with spec, anyio.create_task_group() as group:
        callers = [
            _Caller(
                told,
                orders,
                spec,
                managers,
                number,
                {key: orders.known[key] for key in keys[number :: orders.callers]},
            )
            for number in range(orders.callers)
        ]
        for caller in callers:
            group.start_soon(caller.run)
        if orders.long_blob:
            group.start_soon(callers[0].send_long_blobs)


class _Caller:
    """One task that does one thing after another to resources that are its own."""

    def __init__(
        self,
        told: Callable[..., None],
        orders: Orders,
        spec: SpecStar,
        managers: dict[str, ResourceManager[Thing]],
        number: int,
        mine: dict[str, State],
    ) -> None:
        self._told = told
        self._orders = orders
        self._spec = spec
        self._managers = managers
        self._number = number
        self._mine = mine
        self._random = random.Random(f"{orders.seed} {number}")
        self._made = 0

    async def run(self) -> None:
        while True:
            await self._step()

    async def _step(self) -> None:
        chance = self._random.random()
        if chance < 0.08:
            await self._put_blob()
        elif chance < 0.35 or not self._mine:
            await self._create()
        else:
            await self._change(self._random.choice(list(self._mine)))

    def _size(self) -> int:
        most = self._orders.large if self._random.random() < 0.3 else self._orders.small
        return self._random.randint(1, most)

    async def _put_blob(self) -> None:
        seed, size = self._random.getrandbits(40), self._random.randint(1, self._orders.blob)
        self._told("blob_began", seed, size)
        data = blob_of(seed, size)
        if self._random.random() < 0.5:
            info = await self._spec.blobs.put(data)
        else:
            session = await self._spec.blobs.create_upload(size=size)
            await self._spec.blobs.upload(session.upload_id, data)
            info = await self._spec.blobs.finalize(session.upload_id)
        assert info.file_id == hashlib.sha256(data).hexdigest()
        self._told("blob_done", seed, size)

    async def send_long_blobs(self) -> None:
        """Blobs in chunks: in parts, where the backend has parts."""
        seed, size = self._random.getrandbits(40), self._orders.long_blob
        data = blob_of(seed, size)

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, size, 1 << 20):
                yield data[start : start + (1 << 20)]

        while True:
            self._told("blob_began", seed, size)
            info = await self._spec.blobs.put(chunks())
            self._told("blob_done", seed, size)
            self._told("blob_began", seed, size)
            await self._spec.blobs.delete(info.file_id)

    async def _create(self) -> None:
        model = MODELS[self._random.randrange(len(MODELS))]
        count = 1 if self._random.random() < 0.8 else self._random.randint(2, 6)
        draft = self._random.random() < 0.2
        states: dict[str, State] = {}
        for _ in range(count):
            self._made += 1
            key = f"{model}:{self._orders.round}-{os.getpid()}-{self._number}-{self._made}"
            states[key] = State(serial=1, round=self._orders.round, size=self._size(), draft=draft)
        for key, state in states.items():
            self._began(key, state)
        things = [self._thing(key, state) for key, state in states.items()]
        manager = self._managers[model]
        status: Literal["draft", "stable"] = "draft" if draft else "stable"
        if count == 1:
            revisions = [await manager.create(things[0], resource_id=things[0].key, status=status)]
        else:
            revisions = await manager.create_many(things, resource_ids=list(states), status=status)
        for (key, state), revision in zip(states.items(), revisions, strict=True):
            self._done(key, state, revision)

    async def _change(self, key: str) -> None:
        """One of the changes that the state of the resource allows."""
        state, chance, manager = self._mine.pop(key), self._random.random(), self._managers[model_of(key)]
        if chance < 0.04:
            self._began(key, None)
            await manager.permanently_delete(key)
            self._told("done", key, "")
            return
        if state.deleted or chance < 0.15:
            after = msgspec.structs.replace(state, deleted=not state.deleted)
            self._began(key, after)
            if state.deleted:
                await manager.restore(key)
            else:
                await manager.delete(key, expected_revision_id=state.revision_id)
            self._done(key, after, None)
            return
        after = msgspec.structs.replace(state, serial=state.serial + 1, round=self._orders.round, size=self._size())
        if state.draft and chance < 0.6:
            self._began(key, after)
            self._done(key, after, await manager.modify(key, self._thing(key, after)))
            return
        after = msgspec.structs.replace(after, draft=False, revisions=state.revisions + 1, revision_id="")
        self._began(key, after)
        thing = self._thing(key, after)
        self._done(key, after, await manager.update(key, thing, expected_revision_id=state.revision_id))

    def _thing(self, key: str, state: State) -> Thing:
        return Thing(key, state.serial, state.round, text_of(key, state.serial, state.size))

    def _began(self, key: str, state: State | None) -> None:
        self._told("began", key, state)

    def _done(self, key: str, state: State, revision: RevisionInfo | None) -> None:
        after = state if revision is None else msgspec.structs.replace(state, revision_id=revision.revision_id)
        self._told("done", key, after.revision_id)
        self._mine[key] = after
