"""Archive a folder: every file becomes a blob and a searchable document, and a job counts its lines and words.

    python docs/examples/archive.py                          the Python standard library, kept under ./archive-data
    python docs/examples/archive.py --dir ~/papers           another folder
    python docs/examples/archive.py --backend FILE.json      other backends; `--workers 2` runs the jobs in processes of their own

Run again, it changes nothing that is there already: blobs are found by their content, documents by their path, jobs by a key.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import mimetypes
import os
import signal
import subprocess
import sys
import sysconfig
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from specstar import QB, Job, spec
from specstar.errors import DuplicateResourceError, ResourceNotFoundError

CALLERS = 64
LARGE = 1 << 20


class Document(Struct):
    """One archived file. `lines` and `words` are filled in by the job."""

    path: str
    size: int
    sha256: str
    media_type: str
    modified: datetime
    lines: int | None = None
    words: int | None = None


class CountText(Struct):
    """The work for one document."""

    document_id: str
    file_id: str


class Counts(Struct):
    """What the job found."""

    lines: int
    words: int


documents = spec.add_model(Document, indexed_fields=["path", "size", "media_type", "lines", "words", "sha256"])


@spec.job(max_retries=3)
async def count_text(job: Job[CountText]) -> Counts:
    """Count lines and words of one blob, streaming it, and record them in the document."""
    lines = words = 0
    in_word = False
    async with spec.blobs.open(job.payload.file_id) as chunks:
        async for chunk in chunks:
            lines += chunk.count(b"\n")
            words += len(chunk.split())
            # A word that the border of two chunks cuts was counted twice.
            if in_word and not chunk[:1].isspace():
                words -= 1
            in_word = not chunk[-1:].isspace()
    await documents.patch(job.payload.document_id, {"lines": lines, "words": words})
    return Counts(lines, words)


def configuration(backend: str | None, data: Path) -> Any:
    """The configuration given, or the embedded default: everything under one folder, jobs in this process."""
    if backend is not None:
        return backend
    return {
        "connections": {"local": {"type": "disk", "options": {"rootdir": str(data)}}},
        "meta": {"use": "local"},
        "resource": {"use": "local"},
        "blob": {"use": "local"},
        "mq": {"type": "simple"},
    }


async def archive(path: Path, root: Path, tally: dict[str, int]) -> None:
    """Archive one file, unless it is there already."""
    stat = await asyncio.to_thread(path.stat)
    name = path.relative_to(root).as_posix()
    media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    content: bytes | None = None
    if stat.st_size >= LARGE:
        digest = (await spec.blobs.put(path, content_type=media_type)).sha256
    else:
        content = await asyncio.to_thread(path.read_bytes)
        digest = hashlib.sha256(content).hexdigest()
    document_id = f"file:{name}"
    try:
        known = await documents.get(document_id)
    except ResourceNotFoundError:
        known = None
    if known is not None and known.data.sha256 == digest:
        tally["unchanged"] += 1
        if known.data.lines is not None:
            return
    else:
        if content is not None:
            await spec.blobs.put(content, content_type=media_type)
        document = Document(
            path=name,
            size=stat.st_size,
            sha256=digest,
            media_type=media_type,
            modified=datetime.fromtimestamp(stat.st_mtime, UTC),
        )
        try:
            if known is None:
                await documents.create(document, resource_id=document_id)
            else:
                await documents.update(document_id, document, expected_revision_id=known.revision_id)
        except DuplicateResourceError:
            tally["unchanged"] += 1
            return
        tally["stored"] += 1
        tally["bytes"] += stat.st_size
    # The key makes it one job for each content, however often this runs.
    await count_text.enqueue(CountText(document_id, digest), idempotency_key=f"{name}:{digest}")
    tally["jobs"] += 1


async def fill(files: list[Path], root: Path, progress: Progress) -> dict[str, int]:
    """Archive all files with many callers at once; what they do at the same time travels together."""
    bar = progress.add_task("archiving", total=len(files))
    tally = {"stored": 0, "unchanged": 0, "jobs": 0, "bytes": 0}
    queue = iter(files)

    async def caller() -> None:
        for path in queue:
            await archive(path, root, tally)
            progress.advance(bar)

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller())
    return tally


async def process(total: int, progress: Progress, processes: list[subprocess.Popen[bytes]]) -> None:
    """Wait until every archived file is counted, by workers in this process or by processes of their own."""
    bar = progress.add_task("counting ", total=total)

    async def watch() -> None:
        while True:
            left = await documents.count(QB["lines"].is_null())
            progress.update(bar, completed=total - left)
            if left == 0:
                return
            for process in processes:
                if process.poll() is not None:
                    raise SystemExit(f"a worker process ended early with status {process.returncode}")
            await asyncio.sleep(0.1)

    if processes:
        await watch()
        return
    workers = asyncio.create_task(spec.run_workers(concurrency=32))
    watcher = asyncio.create_task(watch())
    done, _ = await asyncio.wait({workers, watcher}, return_when=asyncio.FIRST_COMPLETED)
    workers.cancel()
    await asyncio.gather(workers, return_exceptions=True)
    for task in done - {workers}:
        task.result()


async def report(console: Console, where: str, tally: dict[str, int], seconds: tuple[float, float]) -> None:
    """Show what was found, how much there is, how fast it went, and where it lies."""
    table = Table(title="The longest Python sources")
    for heading in ("path", "lines", "words", "bytes"):
        table.add_column(heading, justify="left" if heading == "path" else "right")
    query = QB["media_type"].in_(["text/x-python", "text/x-script.python"]) & ~QB["path"].contains("test")
    for found in await documents.search(query, sort=["-lines"], limit=8):
        document = found.data
        table.add_row(document.path, f"{document.lines:,}", f"{document.words:,}", f"{document.size:,}")
    console.print(table)
    kinds: dict[str, list[int]] = {}
    async for found in documents.iter():
        entry = kinds.setdefault(found.data.media_type, [0, 0, 0])
        entry[0] += 1
        entry[1] += found.data.size
        entry[2] += found.data.lines or 0
    totals = Table(title="By media type")
    for heading in ("media type", "files", "bytes", "lines"):
        totals.add_column(heading, justify="left" if heading == "media type" else "right")
    for kind, (files, size, lines) in sorted(kinds.items(), key=lambda item: -item[1][0])[:6]:
        totals.add_row(kind, f"{files:,}", f"{size:,}", f"{lines:,}")
    totals.add_row("all", *(f"{sum(entry[place] for entry in kinds.values()):,}" for place in range(3)), style="bold")
    console.print(totals)
    seen = tally["stored"] + tally["unchanged"]
    console.print(
        f"{tally['stored']:,} files stored ({tally['bytes']:,} bytes), {tally['unchanged']:,} were there already, "
        f"in {seconds[0]:.1f} s ({seen / max(seconds[0], 1e-9):,.0f} files/s)"
    )
    console.print(
        f"{tally['jobs']:,} jobs in {seconds[1]:.1f} s ({tally['jobs'] / max(seconds[1], 1e-9):,.0f} jobs/s after enqueueing)"
    )
    console.print(f"The data lies in: {where}")


def start_workers(count: int, backend: str) -> list[subprocess.Popen[bytes]]:
    """Worker processes: the same module, by the command line of specstar."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "ARCHIVE_BACKEND": backend}
    command = [sys.executable, "-m", "specstar.cli", "worker", "archive:spec", "--concurrency", "32"]
    return [subprocess.Popen(command, env=environment) for _ in range(count)]


def stop_workers(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask the workers to drain and wait for them."""
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait(timeout=60)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Archive, search and process the files of a folder.")
    parser.add_argument("--dir", type=Path, default=Path(sysconfig.get_path("stdlib")), help="the folder to archive")
    parser.add_argument(
        "--data", type=Path, default=Path("archive-data"), help="where the embedded default keeps its data"
    )
    parser.add_argument("--backend", help="a JSON file with a backend configuration")
    parser.add_argument("--workers", type=int, help="worker processes (default: 0, or 2 with --backend)")
    parser.add_argument("--limit", type=int, help="archive at most so many files")
    arguments = parser.parse_args()
    root = arguments.dir.expanduser().resolve()
    if not root.is_dir():
        parser.error(f"{root} is no folder")
    files = sorted(
        path
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink() and not {"site-packages", "__pycache__"} & set(path.parts)
    )[: arguments.limit]
    if not files:
        parser.error(f"{root} has no files")
    console = Console()
    console.print(f"Archiving {len(files):,} files of {root}")
    worker_count = arguments.workers if arguments.workers is not None else (2 if arguments.backend else 0)
    await spec.configure(backend=configuration(arguments.backend, arguments.data))
    where = f"the backends of {arguments.backend}" if arguments.backend else str(arguments.data.resolve())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    async with spec:
        with Progress(*columns, console=console) as progress:
            processes = start_workers(worker_count, arguments.backend) if worker_count else []
            try:
                started = time.perf_counter()
                tally = await fill(files, root, progress)
                filled = time.perf_counter()
                await process(await documents.count(), progress, processes)
                finished = time.perf_counter()
            finally:
                stop_workers(processes)
        await report(console, where, tally, (filled - started, finished - filled))


if os.environ.get("ARCHIVE_BACKEND"):
    # This module was imported by a worker process.
    spec.configure(backend=os.environ["ARCHIVE_BACKEND"])

if __name__ == "__main__":
    asyncio.run(main())
