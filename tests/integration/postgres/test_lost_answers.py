"""A commit whose answer was lost is found out: acknowledged if it happened, repeated only if it cannot have happened."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from specstar.errors import BackendUnavailable, OutcomeUnknownError, RevisionConflictError
from specstar.roles import AdvancingStorage, PayloadKey, Storage, StoredRevision
from tests.faults.tools.tcp_proxy import TcpProxy
from tests.integration.postgres.rig import Rig, admin, advance_of, change_of, ids, new, open_rig, touched

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def proxy(postgres_database: str) -> AsyncIterator[TcpProxy]:
    async with TcpProxy.before(postgres_database) as proxy:
        yield proxy


@pytest.fixture
async def far(proxy: TcpProxy, postgres_database: str) -> AsyncIterator[Rig]:
    """A process that reaches the database through the proxy."""
    options = {"acquire_timeout_seconds": 3.0, "command_timeout_seconds": 2.0, "connect_timeout_seconds": 1.0}
    async with open_rig(proxy.url_of(postgres_database), **options) as rig:
        yield rig


async def warm(storage: Storage, name: str) -> None:
    """Prepare the statements on the connection of the pool, so that the next answer is that of the write itself."""
    item = new(name)
    await storage.write(item)
    await storage.write(change_of(item))


async def lose_the_answer(proxy: TcpProxy) -> None:
    """Let the next statement arrive, drop its answer, break the connection, and behave again."""
    proxy.answers.dropped.clear()
    proxy.answers.dropping = True
    await proxy.answers.dropped.wait()
    proxy.break_off()
    proxy.answers.dropping = False


async def test_writes_that_were_committed_are_acknowledged_and_made_once(proxy: TcpProxy, far: Rig) -> None:
    storage = far.storage()
    first = new("old", b"1")
    await storage.write(first)
    await warm(storage, "w1")
    losing = asyncio.create_task(lose_the_answer(proxy))
    await asyncio.sleep(0)
    second = change_of(first, b"2")
    created = [new(name, name.encode()) for name in ids("r", 10)]
    await asyncio.gather(*(storage.write(item) for item in created))
    await losing
    await warm(storage, "w2")
    losing = asyncio.create_task(lose_the_answer(proxy))
    await asyncio.sleep(0)
    await storage.write(second)
    await losing
    await warm(storage, "w3")
    losing = asyncio.create_task(lose_the_answer(proxy))
    await asyncio.sleep(0)
    await storage.write(touched(second, is_deleted=True))
    await losing
    meta = await storage.read_meta("old")
    assert meta is not None
    assert (meta.version, meta.is_deleted) == (3, True)
    assert len(await storage.list_revisions("old")) == 2
    for item in created:
        assert isinstance(await storage.read(item.change.meta.resource_id), StoredRevision)
        assert len(await storage.list_revisions(item.change.meta.resource_id)) == 1


async def test_writes_that_never_arrived_are_repeated(proxy: TcpProxy, far: Rig) -> None:
    storage = far.storage()
    await storage.write(new("warm"))
    proxy.requests.flowing.clear()
    writing = asyncio.gather(*(storage.write(new(name)) for name in ids("r", 5)))
    await asyncio.sleep(0.2)
    proxy.break_off()
    proxy.requests.flowing.set()
    await writing
    assert all(await storage.read_many(list(ids("r", 5))))


async def test_a_statement_held_back_in_the_network_cannot_land_after_its_refusal(
    proxy: TcpProxy, far: Rig, postgres_database: str
) -> None:
    """The old server process is ended before the outcome is read: what arrives there later finds nobody."""
    storage = far.storage()
    first = new("r", b"1")
    await storage.write(first)
    proxy.requests.flowing.clear()
    writing = asyncio.create_task(storage.write(change_of(first, b"2")))
    await asyncio.sleep(0.2)
    held = list(proxy._pairs)
    proxy.requests.flowing, old = asyncio.Event(), proxy.requests.flowing
    proxy.requests.flowing.set()
    with pytest.raises(BackendUnavailable, match="nothing was written"):
        await writing
    old.set()
    await asyncio.wait(held, timeout=1)
    await asyncio.sleep(0.2)
    found = await storage.read("r")
    assert isinstance(found, StoredRevision)
    assert found.payload == b"1"


async def test_an_outcome_that_nobody_can_read_is_unknown_in_bounded_time(proxy: TcpProxy, far: Rig) -> None:
    storage = far.storage()
    await storage.write(new("warm"))
    started = time.monotonic()
    proxy.answers.dropping = True
    writing = asyncio.gather(*(storage.write(new(name)) for name in ids("r", 3)), return_exceptions=True)
    await proxy.answers.dropped.wait()
    proxy.refuses = True
    proxy.break_off()
    outcomes = await writing
    assert [type(outcome) for outcome in outcomes] == [OutcomeUnknownError] * 3
    assert time.monotonic() - started < 8
    proxy.refuses = proxy.answers.dropping = False
    assert all(await storage.read_many(list(ids("r", 3))))


async def test_a_conflict_after_a_lost_answer_is_still_a_conflict(
    proxy: TcpProxy, far: Rig, postgres_database: str
) -> None:
    storage = far.storage()
    first = new("r", b"1")
    await storage.write(first)
    async with open_rig(postgres_database) as near:
        proxy.requests.flowing.clear()
        writing = asyncio.create_task(storage.write(change_of(first, b"lost")))
        await asyncio.sleep(0.1)
        winner = change_of(first, b"won")
        await near.storage().write(winner)
        proxy.break_off()
        proxy.requests.flowing.set()
        with pytest.raises(RevisionConflictError) as caught:
            await writing
        assert caught.value.actual_revision_id == winner.change.meta.current_revision_id


async def test_a_write_that_others_built_upon_is_still_acknowledged(
    proxy: TcpProxy, far: Rig, postgres_database: str
) -> None:
    storage = far.storage()
    first = new("r", b"1")
    await storage.write(first)
    await warm(storage, "w")
    second = change_of(first, b"2")
    async with open_rig(postgres_database) as near:
        proxy.answers.dropped.clear()
        proxy.answers.dropping = True
        writing = asyncio.create_task(storage.write(second))
        await proxy.answers.dropped.wait()
        await near.storage().write(change_of(second, b"3"))
        proxy.break_off()
        proxy.answers.dropping = False
        await writing


async def test_an_advance_with_a_lost_answer_answers_as_stored(
    proxy: TcpProxy, far: Rig, postgres_database: str
) -> None:
    storage = far.storage()
    assert isinstance(storage, AdvancingStorage)
    first, other = new("r", b"1"), new("s", b"1")
    await storage.write(first)
    await storage.write(other)
    warmed = await storage.advance(advance_of(other, b"2"))
    losing = asyncio.create_task(lose_the_answer(proxy))
    await asyncio.sleep(0)
    # By a clock that is behind: the row's time holds, and only the server knows it.
    item = advance_of(first, b"2", behind=timedelta(hours=1))
    made = await storage.advance(item)
    await losing
    found = await storage.read("r")
    assert isinstance(found, StoredRevision)
    assert (found.revision, found.payload, found.meta.revision_count) == (made, b"2", 2)
    assert made.updated_time == first.change.meta.updated_time
    assert warmed.parent_revision_id == other.change.meta.current_revision_id
    async with open_rig(postgres_database) as near:
        proxy.requests.flowing.clear()
        writing = asyncio.create_task(storage.advance(advance_of(found, b"lost")))
        await asyncio.sleep(0.1)
        rival = near.storage()
        assert isinstance(rival, AdvancingStorage)
        winner = await rival.advance(advance_of(found, b"won"))
        proxy.break_off()
        proxy.requests.flowing.set()
        with pytest.raises(RevisionConflictError) as caught:
            await writing
        assert caught.value.actual_revision_id == winner.revision_id


async def test_erasing_with_a_lost_answer(proxy: TcpProxy, far: Rig) -> None:
    storage = far.storage()
    await storage.write(new("r"))
    losing = asyncio.create_task(lose_the_answer(proxy))
    await asyncio.sleep(0)
    assert await storage.erase("r") is True
    await losing
    assert await storage.read("r") is None


async def test_erasing_together_with_a_lost_answer(proxy: TcpProxy, far: Rig) -> None:
    """Where only the answer is lost, what is gone is erased and what could not be is told so; else all is sent again."""
    storage = far.storage()
    await storage.write_many([new(name) for name in [*ids("r", 10), *ids("s", 10)]])
    losing = asyncio.create_task(lose_the_answer(proxy))
    await asyncio.sleep(0)
    erased = await asyncio.gather(
        *(storage.erase(name, expected_version=1) for name in ids("r", 9)),
        storage.erase("r00009", expected_version=2),
        return_exceptions=True,
    )
    await losing
    assert erased[:9] == [True] * 9
    assert isinstance(erased[9], RevisionConflictError)
    await warm(storage, "w")
    proxy.requests.flowing.clear()
    erasing = asyncio.gather(*(storage.erase(name) for name in ids("s", 10)))
    await asyncio.sleep(0.2)
    proxy.break_off()
    proxy.requests.flowing.set()
    assert await erasing == [True] * 10
    left = await storage.read_many([*ids("r", 10), *ids("s", 10)])
    assert [found is not None for found in left] == [False] * 9 + [True] + [False] * 10


async def test_payloads_with_a_lost_answer(proxy: TcpProxy, far: Rig) -> None:
    store = far.resource()
    await store.put(PayloadKey("warm", "p"), b"1")
    losing = asyncio.create_task(lose_the_answer(proxy))
    await asyncio.sleep(0)
    await store.put(PayloadKey("r", "p"), b"2")
    await losing
    assert await store.get(PayloadKey("r", "p")) == b"2"


async def test_reads_are_repeated(proxy: TcpProxy, far: Rig) -> None:
    storage = far.storage()
    await storage.write(new("r"))
    losing = asyncio.create_task(lose_the_answer(proxy))
    await asyncio.sleep(0)
    assert await storage.read("r") is not None
    await losing


async def test_a_write_that_waits_for_a_lock_too_long_is_ended_and_refused(far: Rig, postgres_database: str) -> None:
    storage = far.storage()
    first = new("r", b"1")
    await storage.write(first)
    async with admin(postgres_database) as stranger:
        async with stranger.transaction():
            await stranger.execute('UPDATE "User_meta" SET version = version')
            told = r"within 2 s \(command_timeout_seconds\) to a statement of \d{3} bytes; nothing was written"
            with pytest.raises(BackendUnavailable, match=told):
                await storage.write(change_of(first, b"2"))
        found = await storage.read("r")
        assert isinstance(found, StoredRevision)
        assert found.payload == b"1"


@pytest.fixture
async def changeling(postgres_database: str) -> AsyncIterator[str]:
    """The DSN of a role that takes on another one at once (as passwords of short life do), and so may not see itself."""
    name = postgres_database.rpartition("/")[2]
    owner, login = f"owner_{name}", f"login_{name}"
    async with admin(postgres_database) as connection:
        await connection.execute(
            f"CREATE ROLE {owner}; CREATE ROLE {login} LOGIN NOINHERIT PASSWORD 'pw-of-role'; GRANT {owner} TO {login}; "
            f"ALTER ROLE {login} SET role = {owner}; CREATE SCHEMA changeling AUTHORIZATION {owner}"
        )
        scheme, _, rest = postgres_database.partition("://")
        yield f"{scheme}://{login}:pw-of-role@{rest.rpartition('@')[2]}"
        await connection.execute(f"DROP OWNED BY {owner}, {login}; DROP ROLE {owner}, {login}")


async def test_a_write_is_not_taken_for_lost_while_its_server_process_may_still_make_it(
    proxy: TcpProxy, changeling: str
) -> None:
    """This role may not end that process: it waits for its end, and where that does not come nobody knows."""
    options = {"acquire_timeout_seconds": 2.0, "command_timeout_seconds": 1.0, "schema": "changeling"}
    async with open_rig(proxy.url_of(changeling), **options) as rig:
        storage = rig.storage()
        first = new("r", b"1")
        await storage.write(first)
        await warm(storage, "w")
        for call in (storage.write(change_of(first, b"2")), storage.erase("w")):
            proxy.requests.flowing.clear()
            running = asyncio.create_task(call)
            await asyncio.sleep(0.2)
            proxy.requests.flowing, old = asyncio.Event(), proxy.requests.flowing
            proxy.requests.flowing.set()
            with pytest.raises(OutcomeUnknownError):
                await asyncio.wait_for(running, 20)
            old.set()
