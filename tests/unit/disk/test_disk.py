"""The disk backend as a whole: roots, damage, two processes, memory."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from specstar import SpecStar
from specstar.backends.disk import DiskOptions, DiskProvider
from specstar.backends.disk.durable import TempFolder
from specstar.backends.disk.mounts import network_file_system
from specstar.backends.disk.payload_files import PayloadFiles
from specstar.backends.disk.provider import root_path
from specstar.backends.sqlite.database_file import DatabaseFile
from specstar.errors import (
    BackendError,
    BlobIntegrityError,
    ConfigError,
    DecodeError,
    InvalidInputError,
    SchemaVersionError,
)
from specstar.query import QB, build_query
from specstar.roles import BlobStore, PayloadKey, Storage, StoredRevision
from specstar.roles.storage import StorageWrite
from tests.conformance.cases import Case
from tests.conformance.harness import Bench
from tests.conformance.samples import created, model, revised

DAMAGE = """
import sqlite3, sys

with sqlite3.connect(sys.argv[1]) as database:
    find = "SELECT name FROM sqlite_master WHERE name GLOB 'revisions_*' AND type = 'table'"
    (table,) = database.execute(find).fetchone()
    database.execute(f'UPDATE "{table}" SET info = ? WHERE resource_id = ?', (b"noise", "r"))
database.close()
"""
DAMAGE_ROW = (
    DAMAGE.replace("revisions_*", "meta_*").replace("info = ?", "updated_time = ?").replace('b"noise"', "1 << 62")
)


class Note(msgspec.Struct):
    text: str


@pytest.fixture
async def bench(tmp_path: Path, anyio_backend: object) -> AsyncIterator[Bench]:
    bench = bench_at(tmp_path / "new" / "root")
    yield bench
    await bench.aclose()


def bench_at(root: Path, **options: Any) -> Bench:
    return Bench(Case(DiskProvider(), DiskOptions(rootdir=str(root), **options)))


def root_of(bench: Bench) -> Path:
    options = bench.case.options
    assert isinstance(options, DiskOptions)
    return Path(options.rootdir)


@pytest.fixture
async def storage(bench: Bench) -> Storage:
    return await bench.storage(model())


@pytest.fixture
async def blobs(bench: Bench) -> BlobStore:
    return await bench.blob()


def test_options_have_stated_defaults() -> None:
    options = DiskOptions(rootdir="x")
    assert (options.inline_payload_bytes, options.reader_threads, options.busy_timeout_seconds) == (65536, 2, 10.0)
    for wrong in ({"rootdir": ""}, {"rootdir": "x", "reader_threads": 0}, {"rootdir": "x", "rootdri": "y"}, {}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, DiskOptions)
    provider = DiskProvider()
    assert provider.validate(options, "meta") == []
    assert [name for name, _ in provider.validate(DiskOptions(rootdir=" "), "meta")] == ["rootdir"]
    assert [name for name, _ in provider.validate(DiskOptions(rootdir="a\0b"), "meta")] == ["rootdir"]


@pytest.mark.parametrize("apart", [False, True])
async def test_unfinished_files_of_killed_writers_are_garbage(tmp_path: Path, apart: bool) -> None:
    disk = {"type": "disk", "options": {"rootdir": str(tmp_path / "root")}}
    spec = SpecStar()
    spec.configure(backend={"meta": {"type": "memory"} if apart else disk, "resource": disk})
    notes = spec.add_model(Note)
    async with spec:
        await notes.create(Note("x" * 100_000), resource_id="a")
        left = tmp_path / "root" / "_tmp" / "1234-left"
        left.write_bytes(b"half of a payload")
        assert await spec.collect_garbage(older_than_seconds=60) == {"Note": 0, "blobs": 0}
        assert left.exists()
        assert await spec.collect_garbage(older_than_seconds=0) == {"Note": 1, "blobs": 0}
        assert not left.exists()
        assert (await notes.get("a")).data.text == "x" * 100_000


def test_roots_are_expanded_and_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert root_path("~/data") == root_path("data") == root_path("./x/../data") == str(tmp_path / "data")
    provider = DiskProvider()
    one, other = DiskOptions(rootdir="~/data"), DiskOptions(rootdir="data", inline_payload_bytes=0)
    assert provider.connection_key(one) == provider.connection_key(other)
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_leads_nowhere_is_refused_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(rootdir: str) -> str:
        with pytest.raises(ConfigError) as caught:
            SpecStar().configure(backend={"blob": {"type": "disk", "options": {"rootdir": rootdir}}})
        return str(caught.value)

    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "working directory cannot be found" in refused("data")
    assert "no home folder" in refused("~nobody-of-this-name/data")
    SpecStar().configure(backend={"blob": {"type": "disk", "options": {"rootdir": str(tmp_path / "~data")}}})


async def test_parts_of_a_root_on_another_file_system_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def across(self: Path, target: Path) -> Path:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(self), None, str(target))

    storage = {"type": "disk", "options": {"rootdir": str(tmp_path)}}
    spec = SpecStar()
    spec.configure(backend={"meta": storage, "resource": storage})
    notes = spec.add_model(Note)
    async with spec:
        monkeypatch.setattr(Path, "replace", across)
        with pytest.raises(BackendError, match="link or mount the whole rootdir"):
            await notes.create(Note("x" * 100_000))


async def test_a_mapped_database_is_read_as_it_is_written(tmp_path: Path, anyio_backend: object) -> None:
    bench = bench_at(tmp_path / "root", mmap_bytes=1 << 30)
    storage = await bench.storage(model())
    row = created("r")
    await storage.write(StorageWrite(row, b"first"))
    for number in range(300):
        others = [created(f"r{number}-{place}") for place in range(10)]
        assert not any(await storage.write_many([StorageWrite(other, b"x" * 3000) for other in others]))
        found = await storage.read_many([other.meta.resource_id for other in [row, *others]])
        assert [other and other.payload for other in found] == [b"first", *[b"x" * 3000] * 10]
    maps = Path("/proc/self/maps").read_text().splitlines()  # noqa: ASYNC240
    assert any(" r--s " in line and line.endswith("specstar.sqlite3") for line in maps)
    await bench.aclose()


async def test_blobs_alone_need_no_database(bench: Bench, blobs: BlobStore) -> None:
    await blobs.put_bytes(b"x", content_type="a/b")
    assert [path.name for path in root_of(bench).iterdir()] == ["_blobs"]


async def test_small_payloads_lie_in_the_database_and_large_ones_in_files(bench: Bench, storage: Storage) -> None:
    await storage.write(StorageWrite(created("small"), bytes(65_536)))
    folder = root_of(bench) / "_payloads"
    assert not folder.exists()
    await storage.write(StorageWrite(created("large"), bytes(65_537)))
    assert len([path for path in folder.rglob("*") if path.is_file()]) == 1


async def test_a_root_of_another_program_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "specstar.sqlite3").write_bytes(b"my own file\n" * 100)
    bench = bench_at(tmp_path)
    storage = await bench.storage(model())
    for _ in range(2):
        with pytest.raises(SchemaVersionError):
            await storage.read("r")
    await bench.aclose()
    assert (tmp_path / "specstar.sqlite3").read_bytes() == b"my own file\n" * 100


async def test_a_root_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    bench = bench_at(tmp_path / "file" / "root")
    storage = await bench.storage(model())
    with pytest.raises(BackendError, match="choose another rootdir"):
        await storage.read("r")
    (tmp_path / "file").unlink()
    assert await storage.read("r") is None
    await bench.aclose()


async def test_a_damaged_payload_names_its_resource_and_hides_no_other(bench: Bench, storage: Storage) -> None:
    changes = [created(f"r{number}") for number in range(3)]
    await storage.write_many([StorageWrite(change, bytes(100_000)) for change in changes])
    first, *_ = [path for path in (root_of(bench) / "_payloads").rglob("*") if path.is_file()]
    first.write_bytes(first.read_bytes()[:-1])
    damaged = []
    for change in changes:
        try:
            await storage.read(change.meta.resource_id)
        except DecodeError as error:
            damaged.append(error.resource_id)
    assert len(damaged) == 1
    found = await storage.search(build_query(fields=model().indexed_fields))
    assert {row.meta.resource_id: len(row.payload) for row in found} == {
        f"r{number}": 0 if f"r{number}" in damaged else 100_000 for number in range(3)
    }


async def test_a_resource_with_a_damaged_record_can_be_erased(bench: Bench, storage: Storage) -> None:
    """With its payloads, small or in files: what is damaged must not stay for ever."""
    change = created("r")
    await storage.write(StorageWrite(change, bytes(100_000)))
    other = created("other")
    await storage.write(StorageWrite(other, b"{}"))
    # By another process: closing the file here takes away the locks of the store.
    await anyio.run_process([sys.executable, "-c", DAMAGE, str(root_of(bench) / "specstar.sqlite3")])
    for look in (storage.read, storage.list_revisions):
        with pytest.raises(DecodeError, match=r"of 'r' is damaged .*permanently_delete"):
            await look("r")
    assert await storage.read_meta("r") is not None
    assert await storage.erase("r")
    assert await storage.read("r") is None
    assert [path for path in (root_of(bench) / "_payloads").rglob("*") if path.is_file()] == []
    assert isinstance(await storage.read("other"), StoredRevision)


async def test_a_resource_with_a_damaged_row_is_named_by_each_search_that_meets_it_and_can_be_erased(
    bench: Bench, storage: Storage
) -> None:
    for name in ("r", "other"):
        await storage.write(StorageWrite(created(name), b"{}"))
    await anyio.run_process([sys.executable, "-c", DAMAGE_ROW, str(root_of(bench) / "specstar.sqlite3")])
    query = build_query(fields=model().indexed_fields)
    for look in (storage.search, storage.search_meta):
        with pytest.raises(DecodeError, match=r"row of 'r' is damaged .*permanently_delete") as caught:
            await look(query)
        assert caught.value.resource_id == "r"
    beside = build_query(QB["resource_id"] != "r", fields=model().indexed_fields)
    assert [found.meta.resource_id for found in await storage.search(beside)] == ["other"]
    assert await storage.erase("r")
    assert [found.meta.resource_id for found in await storage.search(query)] == ["other"]


async def test_noise_in_the_header_of_a_payload_is_damage_to_collections_too(bench: Bench, storage: Storage) -> None:
    change = created("r" * 36)
    await storage.write(StorageWrite(change, bytes(100_000)))
    (path,) = [path for path in (root_of(bench) / "_payloads").rglob("*") if path.is_file()]
    data = bytearray(path.read_bytes())
    data[30] = 0xCC  # within an id: no UTF-8 any more
    path.write_bytes(data)
    with pytest.raises(DecodeError):
        await storage.read(change.meta.resource_id)
    assert [page async for page in storage.list_payloads()] in ([], [[]])


async def test_a_lost_payload_names_its_resource(bench: Bench, storage: Storage) -> None:
    await storage.write(StorageWrite(created("r"), bytes(100_000)))
    for path in (root_of(bench) / "_payloads").rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(DecodeError, match="backup") as caught:
        await storage.read("r")
    assert caught.value.resource_id == "r"


async def test_payloads_stay_readable_when_roles_are_bound_together_or_apart(bench: Bench, storage: Storage) -> None:
    first, second = created("together"), created("apart")
    await storage.write(StorageWrite(first, b"small"))
    meta, resource = await bench.meta(model()), await bench.resource(model())
    assert second.revision is not None
    assert first.revision is not None
    key = PayloadKey("apart", second.revision.payload_id)
    await resource.put(key, b"also small")
    await meta.write(second)
    assert await resource.get(PayloadKey("together", first.revision.payload_id)) == b"small"
    found = await storage.read("apart")
    assert found is not None
    assert found.payload == b"also small"  # type: ignore[union-attr]
    assert [row.payload for row in await storage.read_many(["together", "apart"]) if row] == [b"small", b"also small"]
    await storage.erase("apart")
    assert await resource.get(key) is None


async def test_garbage_of_killed_writers_is_found(bench: Bench, storage: Storage) -> None:
    change = created("r")
    await storage.write(StorageWrite(change, bytes(100_000)))
    resource = await bench.resource(model())
    garbage = [PayloadKey("r", "p-large"), PayloadKey("gone", "p-small")]
    await resource.put_many([(garbage[0], bytes(100_000)), (garbage[1], b"x")])
    listed = [entry.key async for page in storage.list_payloads() for entry in page]
    assert sorted(await storage.unreferenced(listed)) == sorted(garbage)
    await storage.drop_payloads(garbage)
    assert [entry.key.payload_id async for page in storage.list_payloads() for entry in page] == [
        change.revision.payload_id if change.revision else ""
    ]
    assert await storage.read("r") is not None


async def test_a_blob_with_flipped_bits_is_not_handed_out_whole(bench: Bench, blobs: BlobStore, tmp_path: Path) -> None:
    for size in (1000, 3 << 20, 9 << 20):
        data = os.urandom(size)
        info = await blobs.put_bytes(data, content_type="a/b")
        path = root_of(bench) / "_blobs" / info.file_id[:2] / info.file_id[2:4] / info.file_id
        with path.open("r+b") as file:
            file.write(bytes([data[0] ^ 1]))
        reader = await blobs.open(info.file_id)
        received = 0
        with pytest.raises(BlobIntegrityError):  # noqa: PT012  the loop is the call
            while chunk := await reader.read():
                received += len(chunk)
        assert received < size
        await reader.aclose()
        for target in (tmp_path / "fresh", tmp_path / "old"):
            (tmp_path / "old").write_bytes(b"kept")
            with pytest.raises(BlobIntegrityError):
                await blobs.save(info.file_id, target)
        assert (tmp_path / "old").read_bytes() == b"kept"
        assert sorted(os.listdir(tmp_path)) == ["new", "old"]  # noqa: PTH208  "new" holds the root


@pytest.mark.parametrize("size", [10, 2 << 20])
@pytest.mark.parametrize("damage", ["content", "trailer", "length"])
@pytest.mark.parametrize("way", ["bytes", "file", "chunks"])
async def test_putting_the_content_again_mends_a_damaged_blob(
    bench: Bench, blobs: BlobStore, tmp_path: Path, size: int, damage: str, way: str
) -> None:
    data = os.urandom(size)
    info = await blobs.put_bytes(data, content_type="image/png")
    path = root_of(bench) / "_blobs" / info.file_id[:2] / info.file_id[2:4] / info.file_id
    stored = path.read_bytes()
    flipped = bytes([stored[5] ^ 1])
    path.write_bytes(
        {
            "content": stored[:5] + flipped + stored[6:],
            "trailer": stored[:-9] + b"?" + stored[-8:],
            "length": stored[:-1],
        }[damage]
    )
    with pytest.raises(BlobIntegrityError):
        await blobs.get(info.file_id)
    if way == "bytes":
        again = await blobs.put_bytes(data, content_type="image/png")
    elif way == "file":
        (tmp_path / "source").write_bytes(data)
        again = await blobs.put_file(tmp_path / "source", content_type="image/png")
    else:
        writer = await blobs.create(content_type="image/png")
        await writer.write(data)
        again = await writer.commit()
    assert again.file_id == info.file_id
    assert await blobs.get(info.file_id) == data


async def test_a_folder_that_only_others_may_sweep_is_read(
    bench: Bench, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = await blobs.put_bytes(b"data", content_type="text/plain")

    def refused(self: TempFolder, older_than: float, **_options: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "somewhere")

    monkeypatch.setattr(TempFolder, "sweep", refused)
    await bench.reopen()
    again = await bench.blob()
    assert await again.get(info.file_id) == b"data"
    with pytest.raises(BackendError, match="Permission denied"):
        await again.collect_garbage(older_than_seconds=0)


def test_few_descriptors_do_for_many_calls_at_once(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import os, resource, sys
        import anyio
        from specstar import SpecStar

        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        spec = SpecStar()
        spec.configure(backend={"blob": {"type": "disk", "options": {"rootdir": sys.argv[1]}}})
        blobs = spec.blobs

        async def main():
            async with spec:
                small = await blobs.put(b"small" * 1000)
                large = await blobs.put(bytes(9 << 20))

                async def get(info):
                    assert len(await blobs.get(info.file_id)) == info.size

                async def stream(number):
                    async def chunks():
                        for _ in range(3):
                            yield number.to_bytes(4, "big") * (80 << 10)
                            await anyio.sleep(0.01)
                    info = await blobs.put(chunks())
                    assert info.size == 3 * (320 << 10)

                async with anyio.create_task_group() as group:
                    for _ in range(600):
                        group.start_soon(get, small)
                    for _ in range(100):
                        group.start_soon(get, large)
                async with anyio.create_task_group() as group:
                    for number in range(400):
                        group.start_soon(stream, number)
                session = await blobs.create_upload()
                for number in range(400):
                    await blobs.upload(session.upload_id, b"%d," % number)
                info = await blobs.finalize(session.upload_id)
                assert await blobs.get(info.file_id) == b"".join(b"%d," % number for number in range(400))
                assert len(os.listdir("/proc/self/fd")) < 40
                print("done")

        anyio.run(main)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert not list((tmp_path / "_blobs" / "_tmp").iterdir())


async def test_a_blob_of_an_early_version_is_checked_by_its_sha_256(
    bench: Bench, blobs: BlobStore, tmp_path: Path
) -> None:
    for size in (0, 1000, 3 << 20):
        data = os.urandom(size)
        info = await blobs.put_bytes(data, content_type="a/b")
        path = root_of(bench) / "_blobs" / info.file_id[:2] / info.file_id[2:4] / info.file_id
        written = path.read_bytes()
        trailer = json.loads(written[size:-12])
        del trailer["xxh3"]
        old = json.dumps(trailer).encode()
        path.write_bytes(data + old + len(old).to_bytes(4, "big") + written[-8:])
        assert await blobs.stat(info.file_id) == info
        await blobs.save(info.file_id, tmp_path / "saved")
        assert (tmp_path / "saved").read_bytes() == data
        if size:
            with path.open("r+b") as file:
                file.write(bytes([data[0] ^ 1]))
            with pytest.raises(BlobIntegrityError):
                await blobs.save(info.file_id, tmp_path / "saved")


async def test_a_reader_that_reads_ahead_can_be_closed_and_outlives_its_connection(
    bench: Bench, blobs: BlobStore
) -> None:
    data = os.urandom(9 << 20)
    info = await blobs.put_bytes(data, content_type="a/b")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(50):
        reader = await blobs.open(info.file_id)
        await reader.read()
        await reader.aclose()
        assert await reader.read() == b""
    reader = await blobs.open(info.file_id)
    first = await reader.read()
    await bench.aclose()
    rest = []
    while chunk := await reader.read():
        rest.append(chunk)
    assert b"".join([first, *rest]) == data
    await reader.aclose()
    with anyio.fail_after(10):
        while len(os.listdir("/proc/self/fd")) > before:  # noqa: ASYNC110, PTH208  a thread that still reads closes it
            await anyio.sleep(0.01)


async def test_a_blob_with_noise_in_its_trailer_is_damaged(bench: Bench, blobs: BlobStore) -> None:
    info = await blobs.put_bytes(b"content", content_type="text/plain")
    path = root_of(bench) / "_blobs" / info.file_id[:2] / info.file_id[2:4] / info.file_id
    path.write_bytes(path.read_bytes().replace(b"text/plain", b"text/plai\xcc"))
    with pytest.raises(BlobIntegrityError):
        await blobs.stat(info.file_id)


async def test_a_file_that_cannot_be_read_is_the_callers_error(blobs: BlobStore, tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path, Path("a\0b")):
        with pytest.raises(InvalidInputError, match="cannot read"):
            await blobs.put_file(path, content_type="a/b")


async def test_a_network_file_system_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"22 21 0:40 / {str(tmp_path / 'shared disk').replace(' ', chr(92) + '040')} rw,x shared:1 - nfs4 host:/x rw\n"
        f"23 21 0:41 / {tmp_path}/donn\u00e9es\u2028 rw - cifs host:/y rw\n"
        "broken line\n",
        "utf-8",
    )
    monkeypatch.setattr("specstar.backends.disk.mounts._MOUNTS", mounts)
    assert network_file_system(tmp_path) is None
    assert network_file_system(tmp_path / "shared disk" / "below") == "nfs4"
    assert network_file_system(tmp_path / "donn\u00e9es\u2028") == "cifs"
    bench = bench_at(tmp_path / "shared disk" / "root")
    with caplog.at_level(logging.WARNING, "specstar"):
        await (await bench.blob()).put_bytes(b"x", content_type="a/b")
    await bench.aclose()
    assert "nfs4" in caplog.text
    monkeypatch.setattr("specstar.backends.disk.mounts._MOUNTS", tmp_path / "none")
    assert network_file_system(tmp_path) is None


def _work(root: str, number: int, barrier: Any) -> None:
    async def work() -> None:
        bench = bench_at(Path(root), inline_payload_bytes=100)
        storage = await bench.storage(model())
        blobs = await bench.blob()
        barrier.wait()
        for step in range(30):
            change = created(f"p{number}-{step}", age=number)
            await storage.write(StorageWrite(change, bytes(10 if step % 2 else 5000)))
            await storage.write(StorageWrite(revised(change, age=step), b"second"))
            await blobs.put_bytes(f"shared {step}".encode(), content_type="a/b")
        await bench.aclose()

    asyncio.run(work())


async def test_processes_share_a_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    processes = [context.Process(target=_work, args=(str(root), number, barrier)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 3
    bench = bench_at(root, inline_payload_bytes=100)
    storage, blobs = await bench.storage(model()), await bench.blob()
    assert await storage.count() == 90
    found = await storage.read_many([f"p{number}-{step}" for number in range(3) for step in range(30)])
    assert {row.payload for row in found if row} == {b"second"}
    assert None not in found
    assert len([info async for page in blobs.list() for info in page]) == 30
    await bench.aclose()


_STREAM = """
import asyncio, os, resource, sys
from pathlib import Path
from specstar.backends.disk import DiskOptions, DiskProvider
from tests.conformance.cases import Case
from tests.conformance.harness import Bench

async def main(root, size):
    bench = Bench(Case(DiskProvider(), DiskOptions(rootdir=root)))
    blobs = await bench.blob()
    await blobs.put_bytes(bytes(3 << 20), content_type="a/b")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    chunk = os.urandom(1 << 20)
    writer = await blobs.create(content_type="a/b")
    for number in range(size >> 20):
        await writer.write(number.to_bytes(8, "big") + chunk[8:])
    info = await writer.commit()
    reader = await blobs.open(info.file_id)
    with open(root + "/out", "wb") as out:
        while data := await reader.read():
            out.write(data)
    await reader.aclose()
    os.truncate(root + "/out", size - 1)
    again = await blobs.put_file(Path(root + "/out"), content_type="a/b")
    assert (info.size, again.size) == (size, size - 1)
    session = await blobs.create_upload(content_type="a/b")
    for _ in range(8):
        await blobs.upload(session.upload_id, chunk)
    await blobs.finalize(session.upload_id)
    await bench.aclose()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.mark.timeout(600)
def test_large_blobs_take_little_memory(tmp_path: Path) -> None:
    """`SPECSTAR_TEST_BLOB_MIB=1024` for a whole GiB."""
    size = int(os.environ.get("SPECSTAR_TEST_BLOB_MIB", "160")) << 20
    command = [sys.executable, "-c", _STREAM, str(tmp_path), str(size)]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 64


async def test_writes_and_files_travel_in_batches_of_batch_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: object
) -> None:
    rows: list[int] = []
    files: list[list[int]] = []
    write_rows, write_files = DatabaseFile.write, PayloadFiles.write

    def seen_rows(self: DatabaseFile, operations: Any, *at_once: Any) -> Any:
        rows.append(sum(operation.size for operation in operations))
        return write_rows(self, operations, *at_once)

    def seen_files(self: PayloadFiles, items: Any) -> None:
        files.append([len(payload) for _, payload in items])
        write_files(self, items)

    monkeypatch.setattr(DatabaseFile, "write", seen_rows)
    monkeypatch.setattr(PayloadFiles, "write", seen_files)
    bench = bench_at(tmp_path, inline_payload_bytes=16 << 10, batch_bytes=64 << 10)
    storage = await bench.storage(model())
    small = [StorageWrite(created(f"s{n}"), b"x" * (10 << 10)) for n in range(20)]
    large = [StorageWrite(created(f"l{n}"), b"x" * (20 << 10)) for n in range(10)]
    huge = [StorageWrite(created(f"h{n}"), b"x" * (200 << 10)) for n in range(2)]
    async with anyio.create_task_group() as group:
        for item in (*small[:10], *large[:5], huge[0]):
            group.start_soon(storage.write, item)
    assert await storage.write_many([*small[10:], *large[5:], huge[1]]) == [None] * 16

    assert 20 << 10 < max(rows) <= 64 << 10
    assert sorted(size for batch in files for size in batch) == [20 << 10] * 10 + [200 << 10] * 2
    assert all(sum(batch) <= 64 << 10 or batch == [200 << 10] for batch in files)
    assert [20 << 10] * 3 in files
    for item in (*small, *large, *huge):
        found = await storage.read(item.change.meta.resource_id)
        assert isinstance(found, StoredRevision)
        assert found.payload == item.payload
    await bench.aclose()


async def test_a_relative_root_stays_where_it_was_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs change their working directory: daemons, test runners, notebooks."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    monkeypatch.chdir(first)
    disk = {"type": "disk", "options": {"rootdir": "./data"}}
    spec = SpecStar()
    spec.configure(backend={"meta": disk, "resource": disk, "blob": disk})
    notes = spec.add_model(Note)
    monkeypatch.chdir(second)
    async with spec:
        kept = await notes.create(Note("kept"))
        blob = await spec.blobs.put(b"bytes")
    monkeypatch.chdir(tmp_path)
    async with spec:
        assert (await notes.get(kept.resource_id)).data == Note("kept")
        assert await spec.blobs.get(blob.file_id) == b"bytes"
    assert (first / "data" / "specstar.sqlite3").exists()
    assert list(second.iterdir()) == []
