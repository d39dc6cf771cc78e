"""A service on trio: it serves a line protocol, and runs its jobs on the same trio loop."""

from __future__ import annotations

import sys

import msgspec
import trio

from specstar import Job, SpecStar


class Line(msgspec.Struct):
    text: str


spec = SpecStar()
lines = spec.add_model(Line)


@spec.job
async def store(job: Job[Line]) -> str:
    await trio.sleep(0)  # handlers run on the trio loop of run_workers()
    return (await lines.create(job.payload)).resource_id


async def serve(stream: trio.SocketStream) -> None:
    async for data in stream:
        job = await store.enqueue(Line(data.decode().strip()))
        done = await store.wait(job.job_id, timeout=10)
        await stream.send_all(f"{done.result}\n".encode())


async def main(backend: str) -> None:
    spec.configure(backend=backend)
    async with spec, trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, serve, 0)
        print(listeners[0].socket.getsockname()[1], flush=True)
        await spec.run_workers()  # until SIGTERM or Ctrl-C; then the running jobs end
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
