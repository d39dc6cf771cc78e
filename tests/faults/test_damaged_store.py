"""Bytes that changed on the disk: every call ends with what was stored or with a typed error, and the program goes on."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest

from specstar import QB, SpecStar
from specstar.errors import SpecstarError
from tests.faults.ledger import Figures, fault_count

_LARGE = 100_000


class Note(msgspec.Struct):
    title: str
    text: str


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def opened(root: Path) -> SpecStar:
    spec = SpecStar()
    spec.add_model(Note, indexed_fields=["title"])
    options = {"rootdir": str(root)}
    spec.configure(backend={role: {"type": "disk", "options": options} for role in ("meta", "resource", "blob")})
    return spec


def note(number: int) -> Note:
    return Note(f"title {number}", "x" * (_LARGE if number % 10 == 0 else 50))


async def filled(root: Path) -> tuple[list[str], str]:
    async with opened(root) as spec:
        notes = spec.get_resource_manager(Note)
        made = await notes.create_many([note(number) for number in range(60)])
        blob = await spec.blobs.put(b"b" * _LARGE)
        return [info.resource_id for info in made], blob.file_id


def damage(root: Path, chance: random.Random) -> str:
    """Change, cut or overwrite a few bytes of one file."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size)
    path = chance.choice(files)
    content = bytearray(path.read_bytes())
    kind = chance.choice(["bits", "zeros", "cut", "noise"])
    at = chance.randrange(len(content))
    if kind == "bits":
        for _ in range(chance.randrange(1, 9)):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    elif kind == "zeros":
        content[at : at + 4096] = bytes(len(content[at : at + 4096]))
    elif kind == "noise":
        content[at : at + 200] = chance.randbytes(len(content[at : at + 200]))
    else:
        del content[at:]
    path.write_bytes(content)
    return f"{kind} at {at} of {path.relative_to(root)}"


async def test_damaged_files_give_typed_errors(tmp_path: Path, figures: Figures) -> None:
    figures.name = "disk: bytes of a file changed, cut or overwritten"
    seed = int(os.environ.get("SPECSTAR_FAULTS_SEED", random.randrange(1 << 31)))
    chance = random.Random(seed)
    ids, file_id = await filled(tmp_path / "whole")
    outcomes: Counter[str] = Counter()
    for number in range(fault_count(40, share=10)):
        root = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "whole", root)
        done = damage(root, chance)
        figures.faults += 1
        spec = opened(root)
        notes = spec.get_resource_manager(Note)

        calls: list[Callable[[], Awaitable[object]]] = [
            *(partial(notes.get, key) for key in chance.sample(ids, 12)),
            partial(notes.search, QB["title"].starts_with("title 1"), limit=30),
            notes.count,
            partial(notes.list_revisions, ids[0]),
            partial(notes.create, note(1)),
            partial(notes.update, ids[1], note(2)),
            partial(spec.blobs.get, file_id),
            partial(notes.collect_garbage, older_than_seconds=0),
        ]
        for call in calls:
            try:
                with figures.stall():
                    await call()
                outcomes["whole"] += 1
                figures.acknowledged += 1
            except SpecstarError as error:
                outcomes[type(error).__name__] += 1
            except Exception as error:
                raise AssertionError(f"seed {seed}, {done}: {type(error).__name__}") from error
        try:
            await spec.aclose()
        except SpecstarError as error:
            outcomes[type(error).__name__] += 1
        shutil.rmtree(root)
    assert outcomes["whole"] > 0
    assert sum(outcomes.values()) > outcomes["whole"], f"seed {seed}: no damage was noticed at all"
