"""What killed writers leave is found and removed while others write, and nothing that is referenced goes with it."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services import S3Endpoint, s3_client
from specstar import SpecStar
from tests.faults.ledger import Figures, fault_count
from tests.faults.tools.kill_points import POINTS
from tests.faults.tools.stores import INLINE_BYTES, bucket_keys, disk_backend, leftovers, payload_files, s3_backend
from tests.faults.tools.victims import Victim, victims
from tests.faults.tools.writing import Orders, declared, write
from tests.faults.tools.written import Written


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class _Loop:
    """One store. `grace`: what is younger is not collected, so that writers under way are safe."""

    def __init__(self, figures: Figures, backend: dict[str, Any], *, grace: float, **orders: Any) -> None:
        self.seed = int(os.environ.get("SPECSTAR_FAULTS_SEED") or random.SystemRandom().getrandbits(32))
        self.random = random.Random(self.seed)
        self.figures = figures
        self.written = Written(figures, self.seed)
        self.backend = backend
        self.grace = grace
        self.orders = orders
        self.removed = 0

    async def run(self, faults: int, points: list[str], *, floating: bool = False) -> None:
        with victims() as start:
            while self.figures.faults < faults:
                self.written.round += 1
                touched: set[str] = set()
                for point in points:
                    victim = self._writer(start, die_at=point, die_after=self.random.randrange(3), known=True)
                    touched |= await self._dead(victim)
                writer = self._writer(start)
                assert await asyncio.to_thread(writer.heard_word, "done"), writer.end()
                found = await self._collect_beside(writer, at_least=len(points))
                writer.kill()
                touched |= await self._dead(writer)
                self.removed += found
                async with self._spec() as spec:
                    await self.written.check(spec, touched, floating=floating)
            # Now nobody writes.
            async with self._spec() as spec:
                await spec.collect_garbage(older_than_seconds=-2)
                assert sum((await spec.collect_garbage(older_than_seconds=-2)).values()) == 0
                await self.written.check(spec)
        assert self.figures.lost == 0

    def _writer(self, start: Callable[..., Victim], *, known: bool = False, **more: Any) -> Victim:
        orders = Orders(
            backend=self.backend,
            round=self.written.round,
            seed=self.random.getrandbits(32),
            # Each resource has one writer at a time; the one that lives on makes its own.
            known=self.written.chosen(40) if known else {},
            **self.orders,
            **more,
        )
        return start(write, msgspec.msgpack.encode(orders))

    async def _dead(self, victim: Victim) -> set[str]:
        code = await asyncio.to_thread(victim.end)
        assert code == -9, f"seed {self.seed}: the writer ended with {code}, not at its point"
        self.figures.faults += 1
        return self.written.take(victim.records)

    def _spec(self) -> SpecStar:
        spec = SpecStar()
        spec.configure(backend=self.backend)
        declared(spec)
        return spec

    async def _collect_beside(self, writer: Victim, *, at_least: int) -> int:
        """Collect, again and again, until what the dead have left is old enough and was found. The writer goes on."""
        removed = rounds = 0
        async with self._spec() as spec, asyncio.timeout(60):
            while removed < at_least:
                with self.figures.stall():
                    removed += sum((await spec.collect_garbage(older_than_seconds=self.grace)).values())
                rounds += 1
                assert await asyncio.to_thread(writer.heard_more), writer.end()
                await asyncio.sleep(0.05)
        return removed


@pytest.mark.timeout(3600)
async def test_garbage_on_disk(figures: Figures, tmp_path: Path) -> None:
    figures.name = "disk: garbage collected beside writers"
    loop = _Loop(figures, disk_backend(tmp_path), grace=1.0)
    points = [name for name in POINTS if name.startswith("disk:")]
    await loop.run(fault_count(5, share=0.5), points)
    assert leftovers(tmp_path) == []
    assert payload_files(tmp_path) == loop.written.payloads(over=INLINE_BYTES)


@pytest.mark.timeout(3600)
async def test_garbage_in_a_bucket(figures: Figures, s3: S3Endpoint, s3_bucket: str) -> None:
    figures.name = "S3: garbage collected beside writers"
    backend = s3_backend(s3, s3_bucket, "here")
    loop = _Loop(figures, backend, grace=6.0, callers=16, long_blob=(5 << 20) + 70_000)
    points = [name for name in POINTS if name.startswith("s3:")]
    await loop.run(fault_count(5, share=0.2), points, floating=True)
    assert bucket_keys(s3, s3_bucket, "here/blobs/_uploads/") == []
    assert list(s3_client.unfinished_uploads(s3, s3_bucket)) == []
    assert len(bucket_keys(s3, s3_bucket, "here/resource/")) == loop.written.payloads()
