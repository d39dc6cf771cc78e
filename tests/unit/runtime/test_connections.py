"""A connection is opened once, by whoever comes first; who waits for an attempt that fails has failed with it."""

from __future__ import annotations

import anyio
import pytest

from specstar.errors import BackendUnavailable
from specstar.runtime import Connection, LazyConnection, ServerInfo


class Server:
    """Answers once it is let go: to the first `refusals` attempts with an error."""

    def __init__(self, refusals: int = 0) -> None:
        self.attempts = 0
        self.refusals = refusals
        self.go = anyio.Event()
        self.lazy: LazyConnection[OneOf] = LazyConnection(lambda: OneOf(self), "server")
        self.ends: list[object] = []

    async def call(self) -> None:
        try:
            self.ends.append(await self.lazy.get())
        except BackendUnavailable as error:
            self.ends.append(error)


class OneOf(Connection):
    def __init__(self, server: Server) -> None:
        self.server = server

    async def open(self) -> None:
        server = self.server
        server.attempts += 1
        number, refused = server.attempts, server.attempts <= server.refusals
        await server.go.wait()
        await anyio.lowlevel.checkpoint()
        if refused:
            raise BackendUnavailable(f"no answer to attempt {number}")

    async def ping(self) -> ServerInfo:
        return ServerInfo(version="1")

    async def aclose(self) -> None:
        pass

    def abandon(self) -> None:
        pass


async def test_callers_who_come_together_share_one_connection() -> None:
    server = Server()
    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(server.call)
        await anyio.wait_all_tasks_blocked()
        server.go.set()
    assert server.attempts == 1
    assert server.ends == [server.lazy.opened] * 50


async def test_those_who_wait_for_an_attempt_fail_with_it_and_the_next_call_tries_again() -> None:
    server = Server(refusals=1)
    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(server.call)
        await anyio.wait_all_tasks_blocked()
        server.go.set()
    assert server.attempts == 1
    assert [str(error) for error in server.ends] == ["no answer to attempt 1"] * 50
    assert len({id(error) for error in server.ends}) == 50  # each has a traceback of its own
    await server.call()
    assert server.attempts == 2
    assert server.ends[-1] is server.lazy.opened


@pytest.mark.parametrize("refusals", [0, 1])
async def test_an_attempt_whose_caller_is_cancelled_says_nothing_to_those_who_wait(refusals: int) -> None:
    server = Server(refusals)
    async with anyio.create_task_group() as group:
        first = anyio.CancelScope()

        async def impatient() -> None:
            with first:
                await server.call()

        group.start_soon(impatient)
        await anyio.wait_all_tasks_blocked()
        for _ in range(10):
            group.start_soon(server.call)
        await anyio.wait_all_tasks_blocked()
        first.cancel()
        await anyio.wait_all_tasks_blocked()
        server.go.set()
    assert server.attempts == 2
    assert server.ends == [server.lazy.opened] * 10
