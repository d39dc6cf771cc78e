"""`kill -9` at random moments, also amid a batch, while 64 callers write: what was acknowledged is there, the rest is whole
or not there at all."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services import S3Endpoint
from specstar import SpecStar
from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.stores import (
    bucket_keys,
    disk_backend,
    disk_is_sound,
    postgres_backend,
    s3_backend,
    sessions_end,
)
from tests.faults.tools.victims import Victim, victims
from tests.faults.tools.writing import Orders, declared, write
from tests.faults.tools.written import Written

_KILLS_OF_A_STORE = 25
_FIRST_ACK_SECONDS = 60.0


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def seed() -> int:
    return int(os.environ.get("SPECSTAR_FAULTS_SEED") or random.SystemRandom().getrandbits(32))


async def _nothing() -> None:
    return


class _Loop:
    """Kills writers over one store after another; each store lives through many kills."""

    def __init__(self, figures: Figures, seed: int, *, longest_ms: int, **orders: Any) -> None:
        self.figures = figures
        self.random = random.Random(seed)
        self.longest_ms = longest_ms
        self.orders = orders
        self.amid = 0

    async def run(
        self,
        kills: int,
        backend_of: Callable[[int], dict[str, Any]],
        *,
        loops: list[str],
        settle: Callable[[], Awaitable[None]] = _nothing,
        sound: Callable[[int], None] = lambda store: None,
        floating: bool = False,
    ) -> None:
        """`settle` waits for what the dead writer has sent; `sound` looks at the store before anybody opens it again."""
        with victims() as start:
            for store in range(-(-kills // _KILLS_OF_A_STORE)):
                written = Written(self.figures, self.random.getrandbits(32))
                backend = backend_of(store)
                for _ in range(min(_KILLS_OF_A_STORE, kills - self.figures.faults)):
                    await self._kill_one(start, written, backend, self.random.choice(loops))
                    await settle()
                    await asyncio.to_thread(sound, store)
                    touched = written.take(self._said)
                    await self._check(written, backend, touched, floating=floating)
                await self._check(written, backend, None, floating=False)
                assert await self._collected(backend) == 0
        assert self.figures.lost == self.figures.duplicated == 0
        # Else the writers were always killed between two batches, and nothing was shown.
        assert self.amid > self.figures.faults, "no kill came amid a write"

    async def _kill_one(
        self, start: Callable[..., Victim], written: Written, backend: dict[str, Any], loop: str
    ) -> None:
        written.round += 1
        orders = Orders(
            backend=backend,
            round=written.round,
            seed=self.random.getrandbits(32),
            known=written.chosen(100),
            loop=loop,
            **self.orders,
        )
        victim = start(write, msgspec.msgpack.encode(orders))
        with self.figures.stall():
            # From its start: a writer that comes after a dead one must not wait for anything that that one held.
            assert await asyncio.to_thread(victim.heard_word, "done", within=_FIRST_ACK_SECONDS), victim.end()
        await asyncio.sleep(self.random.uniform(0.001, self.longest_ms / 1000))
        victim.kill()
        code = await asyncio.to_thread(victim.end)
        assert code == -9, code
        self.figures.faults += 1
        self._said = victim.records
        done = sum(record[0] == "done" for record in victim.records)
        self.amid += sum(record[0] == "began" for record in victim.records) - done

    async def _check(
        self, written: Written, backend: dict[str, Any], touched: set[str] | None, *, floating: bool
    ) -> None:
        spec = SpecStar()
        spec.configure(backend=backend)
        async with spec:
            managers = declared(spec)
            if touched is None:
                # Nobody writes now. What the dead left goes, and the check that follows shows that nothing else went.
                await spec.collect_garbage(older_than_seconds=0)
            else:
                with self.figures.stall():
                    await managers["plums"].count()
            await written.check(spec, touched, floating=floating)

    async def _collected(self, backend: dict[str, Any]) -> int:
        spec = SpecStar()
        spec.configure(backend=backend)
        async with spec:
            declared(spec)
            return sum((await spec.collect_garbage(older_than_seconds=0)).values())


@pytest.mark.timeout(3600)
async def test_writers_to_disk(figures: Figures, seed: int, tmp_path: Path) -> None:
    figures.name = "disk: writers killed with kill -9"
    # Some writers die in the middle of a checkpoint.
    loop = _Loop(figures, seed, longest_ms=300, log_pages=150)

    def root(store: int) -> Path:
        return tmp_path / f"store {store}"

    await loop.run(
        fault_count(8),
        lambda store: disk_backend(root(store)),
        loops=["asyncio", "uvloop", "trio"],
        sound=lambda store: disk_is_sound(root(store)),
    )


@pytest.mark.timeout(3600)
async def test_writers_to_postgresql(figures: Figures, seed: int, tmp_path: Path, postgres_database: str) -> None:
    figures.name = "PostgreSQL: writers killed with kill -9"
    loop = _Loop(figures, seed, longest_ms=300)
    await loop.run(
        fault_count(4, share=0.5),
        lambda store: postgres_backend(postgres_database, f"store {store}", tmp_path / f"blobs {store}"),
        loops=["asyncio", "uvloop", "trio"],
        settle=lambda: sessions_end(postgres_database),
    )


@pytest.mark.timeout(3600)
async def test_writers_to_s3(figures: Figures, seed: int, s3: S3Endpoint, s3_bucket: str) -> None:
    figures.name = "S3: writers killed with kill -9"
    loop = _Loop(figures, seed, longest_ms=600, long_blob=(5 << 20) + 70_000, s3_whole=0)
    await loop.run(
        fault_count(3, share=0.25),
        lambda store: s3_backend(s3, s3_bucket, f"store-{store}"),
        loops=["asyncio", "uvloop"],
        # What the server has in its hands lands, or not; a writer that it meets unawares must cope.
        settle=lambda: asyncio.sleep(0.1),
        floating=True,
    )
    assert any(".base/" in key for key in bucket_keys(s3, s3_bucket, "store-0/meta/"))
