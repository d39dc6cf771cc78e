"""Files by hand: one file a resource, made durable by each call, in threads; `shutil` for large ones."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from benchmarks.contestant import Contestant, Sample
from benchmarks.contestants.blobs import LargeFile, timed
from benchmarks.sample import person, shuffled_forever

__all__ = ["HandwrittenFiles"]

_THREADS = 32
_CHUNK = 1 << 20


class Person(msgspec.Struct):
    """The payload."""

    name: str
    age: int
    city: str
    note: str


class Stored(msgspec.Struct):
    """What a file holds: a resource with its meta and one revision."""

    resource_id: str
    revision_id: str
    version: int
    data: Person


class HandwrittenFiles(Contestant):
    """Durable by fsync of the file and of its folder, as specstar's answers are."""

    def start(self) -> None:
        self.folder = Path(self.setting["folder"])
        self.encode = msgspec.json.Encoder().encode
        self.decode = msgspec.json.Decoder(Stored).decode
        self.rows: int = self.setting.get("rows", 10_000)
        self._names: list[str] | None = None

    async def open(self) -> None:
        # The default pool of a small machine has too few threads for 64 callers.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))

    def _value(self, number: int) -> Stored:
        return Stored(uuid.uuid4().hex, uuid.uuid4().hex, 1, msgspec.convert(person(number, self.payload), Person))

    def _write(self, value: Stored, *, durable: bool = True) -> str:
        path = self.folder / f"{value.resource_id}.json"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            os.write(descriptor, self.encode(value))
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if durable:
            _fsync_folder(self.folder)
        return str(path)

    async def create(self, caller: int) -> None:
        """A file of its own, in a thread."""
        await asyncio.to_thread(self._write, self._value(self.count()))

    async def prepare_get(self) -> None:
        """Something to read."""
        if self._names is None:
            names = [self._write(self._value(number), durable=False) for number in range(self.rows)]
            self._names = names
        self._paths = shuffled_forever(self._names)

    def _read(self, path: str) -> Stored:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  the fastest way
            return self.decode(file.read())

    async def get(self, caller: int) -> None:
        """Open, read and decode, in a thread."""
        await asyncio.to_thread(self._read, next(self._paths))

    async def measure_blob_put(self, callers: int, seconds: float) -> Sample:
        """A durable copy by `shutil`."""
        with LargeFile(self.folder, self.setting["blob_bytes"]) as source:
            target = self.folder / "copy"

            def put() -> None:
                shutil.copyfile(source.path, target)
                descriptor = os.open(target, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                _fsync_folder(self.folder)

            async def call() -> None:
                await asyncio.to_thread(put)

            async def after() -> None:
                target.unlink()
                source.renew()

            return await timed(call, after, seconds, source.size)

    async def measure_blob_get(self, callers: int, seconds: float) -> Sample:
        """A copy by `shutil`, which need not be durable."""
        with LargeFile(self.folder, self.setting["blob_bytes"]) as source:
            target = self.folder / "copy"

            async def call() -> None:
                await asyncio.to_thread(shutil.copyfile, source.path, target)

            async def after() -> None:
                target.unlink()

            return await timed(call, after, seconds, source.size)

    async def measure_blob_stream(self, callers: int, seconds: float) -> Sample:
        """Chunk by chunk, each read and written in a thread."""
        with LargeFile(self.folder, self.setting["blob_bytes"]) as source:
            target = self.folder / "copy"

            async def call() -> None:
                with source.path.open("rb", buffering=0) as read, target.open("wb", buffering=0) as write:
                    while chunk := await asyncio.to_thread(read.read, _CHUNK):
                        await asyncio.to_thread(write.write, chunk)

            async def after() -> None:
                target.unlink()

            return await timed(call, after, seconds, source.size)


def _fsync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
