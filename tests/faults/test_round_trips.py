"""On a slow network a call takes as long as its round trips: few, whatever it asks for, and none that could be spared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from services import AmqpEndpoint, S3Endpoint
from specstar import Job, SpecStar
from specstar.message_queue import JobQueue, WorkerStop
from specstar.resource_manager import ResourceManager
from tests.faults.tools.round_trips import RoundTrips
from tests.faults.tools.tcp_proxy import TcpProxy

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

# Of a machine that stands still for a moment in between.
_SPARE = 1


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Note(msgspec.Struct):
    text: str


async def trips_of(proxy: TcpProxy, call: Callable[[], Awaitable[object]]) -> int:
    async with RoundTrips(proxy) as trips:
        await call()
    return trips.count


# PostgreSQL


@asynccontextmanager
async def notes_at(dsn: str, connections: int = 1) -> AsyncIterator[tuple[TcpProxy, ResourceManager[Note]]]:
    """Resources in PostgreSQL."""
    async with TcpProxy.before(dsn) as proxy, SpecStar() as spec:
        options = {"dsn": proxy.url_of(dsn), "pool_max_size": connections}
        spec.configure(
            backend={
                "meta": {"type": "postgres", "options": options},
                "resource": {"type": "postgres", "options": options},
            }
        )
        yield proxy, spec.add_model(Note)


async def test_a_resource_in_postgres_is_erased_in_one_round_trip(postgres_database: str) -> None:
    async with notes_at(postgres_database) as (proxy, notes):
        first, second = await notes.create_many([Note("a"), Note("b")])
        await notes.permanently_delete(first.resource_id)
        trips = await trips_of(proxy, lambda: notes.permanently_delete(second.resource_id))
        assert trips <= 1 + _SPARE
        assert await notes.get_many([first.resource_id, second.resource_id]) == [None, None]


async def test_many_resources_in_postgres_travel_side_by_side(postgres_database: str) -> None:
    """1,024 of them are four statements; the connections are open."""
    async with notes_at(postgres_database, connections=4) as (proxy, notes):
        await asyncio.gather(*(notes.create_many([Note("opens a connection")]) for _ in range(4)))
        made = await notes.create_many([Note(str(number)) for number in range(1024)])
        ids = [info.resource_id for info in made]
        await notes.get_many(ids)
        found: list[object] = []

        async def read() -> None:
            found.extend(await notes.get_many(ids))

        assert await trips_of(proxy, read) <= 2
        assert len(found) == 1024
        assert None not in found
        assert await trips_of(proxy, lambda: notes.create_many([Note(str(number)) for number in range(1024)])) <= 2


# S3


@asynccontextmanager
async def blobs_at(s3: S3Endpoint, bucket: str) -> AsyncIterator[tuple[TcpProxy, SpecStar]]:
    async with TcpProxy.before(s3.endpoint_url) as proxy, SpecStar() as spec:
        options = {
            "bucket": bucket,
            "endpoint_url": proxy.url_of(s3.endpoint_url),
            "access_key_id": s3.access_key_id,
            "secret_access_key": s3.secret_access_key,
            "region_name": s3.region,
        }
        spec.configure(backend={"blob": {"type": "s3", "options": options}})
        yield proxy, spec


async def test_a_small_blob_is_one_round_trip(s3: S3Endpoint, s3_bucket: str) -> None:
    async with blobs_at(s3, s3_bucket) as (proxy, spec):
        await spec.blobs.put(b"opens the connection")
        assert await trips_of(proxy, lambda: spec.blobs.put(b"small")) == 1


async def test_chunks_of_an_upload_are_read_side_by_side(s3: S3Endpoint, s3_bucket: str) -> None:
    async with blobs_at(s3, s3_bucket) as (proxy, spec):
        session = await spec.blobs.create_upload()
        chunks = [bytes([number]) * 100 for number in range(40)]
        for chunk in chunks:
            await spec.blobs.upload(session.upload_id, chunk)
        trips = await trips_of(proxy, lambda: spec.blobs.finalize(session.upload_id))
        info = await spec.blobs.finalize(session.upload_id)
        assert await spec.blobs.get(info.file_id) == b"".join(chunks)
        # The record, the list, the chunks, the blob, the record, what is removed, each some connections anew.
        assert trips < 20


# RabbitMQ


@asynccontextmanager
async def jobs_at(url: str, prefix: str) -> AsyncIterator[tuple[TcpProxy, SpecStar, JobQueue[Note, None]]]:
    async with TcpProxy.before(url) as proxy, SpecStar() as spec:
        spec.configure(
            backend={"mq": {"type": "rabbitmq", "options": {"amqp_url": proxy.url_of(url), "queue_prefix": prefix}}}
        )

        async def read(job: Job[Note]) -> None:
            return

        yield proxy, spec, spec.add_job(Note, read, keep_state=False)


async def test_partitions_are_counted_together(rabbitmq: AmqpEndpoint, queue_prefix: str) -> None:
    async with jobs_at(rabbitmq.url, queue_prefix) as (proxy, _, queue):
        await queue.enqueue_many([Note("one"), Note("two")])
        for key in "abc":
            await queue.enqueue(Note(key), partition_key=key)
        await queue.depth()
        depths: list[int] = []

        async def ask() -> None:
            depths.append(await queue.depth())

        trips = await trips_of(proxy, ask)
        assert depths == [5]
        assert trips <= 2 + _SPARE


async def test_the_first_delay_of_its_length_is_three_round_trips(rabbitmq: AmqpEndpoint, queue_prefix: str) -> None:
    """Whether a purge goes on; the queue, and the one that settles it; the message."""
    async with jobs_at(rabbitmq.url, queue_prefix) as (proxy, _, queue):
        await queue.enqueue(Note("at once"))
        await queue.enqueue(Note("later"), delay=1000)
        assert await trips_of(proxy, lambda: queue.enqueue(Note("much later"), delay=2000)) <= 3


async def test_a_purge_does_not_ask_for_each_delay(rabbitmq: AmqpEndpoint, queue_prefix: str) -> None:
    """There are three thousand names of them for the queue of work alone, and as many for each partition."""
    async with jobs_at(rabbitmq.url, queue_prefix) as (proxy, _, queue):
        await queue.enqueue(Note("at once"))
        await queue.enqueue(Note("later"), delay=1000)
        await queue.enqueue(Note("of a key"), partition_key="key")
        purged: list[int] = []

        async def purge() -> None:
            purged.append(await queue.purge())

        trips = await trips_of(proxy, purge)
        assert purged == [3]
        assert trips < 300  # a thousand and more before


async def test_a_worker_takes_all_partitions_side_by_side(rabbitmq: AmqpEndpoint, queue_prefix: str) -> None:
    async with jobs_at(rabbitmq.url, queue_prefix) as (proxy, spec, queue):
        await queue.enqueue(Note("of a key"), partition_key="key")
        ran = asyncio.Event()

        async def run(job: Job[Note]) -> None:
            ran.set()

        queue.handler = run
        stop = WorkerStop()
        async with RoundTrips(proxy) as trips:
            worker = asyncio.create_task(spec.run_workers(stop=stop, handle_signals=False))
            await asyncio.wait({asyncio.create_task(ran.wait()), worker}, return_when=asyncio.FIRST_COMPLETED)
            begun = trips.count
            stop.set()
            await worker
        assert ran.is_set()
        # 16 partitions of three requests each, and each is let go by itself.
        assert begun < 30
        assert trips.count - begun < 12
