"""The pool: bounded waits, errors that say what to do, recovery without a restart, and forks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import sys
import time
from typing import Any

import anyio
import pytest

import services
from specstar.backends.postgres import PostgresOptions
from specstar.backends.postgres.hosts import connect
from specstar.backends.postgres.session import Session
from specstar.errors import (
    BackendError,
    BackendUnavailable,
    ConfigError,
    OutcomeUnknownError,
    SpecstarError,
)
from specstar.query import QB, IndexedField, build_query
from specstar.roles import StoredRevision
from tests.faults.tools.tcp_proxy import TcpProxy
from tests.integration.postgres.rig import Rig, admin, change_of, ids, new, open_rig

pytestmark = pytest.mark.timeout(180)


async def test_an_idle_role_opens_nothing(rig: Rig) -> None:
    rig.storage()
    assert rig.lazy.opened is None


async def test_a_server_that_is_down_is_reported_in_bounded_time() -> None:
    async with open_rig("postgresql://user:s3cret@127.0.0.1:1/db") as rig:
        started = time.monotonic()
        with pytest.raises(BackendUnavailable, match=r"cannot reach PostgreSQL at 127\.0\.0\.1:1/db") as caught:
            await rig.storage().write(new("r"))
        assert time.monotonic() - started < 5
        assert "s3cret" not in str(caught.value)
        assert caught.value.backend == "postgres"


async def test_a_server_that_never_answers_is_reported_in_bounded_time(postgres_database: str) -> None:
    async with TcpProxy.before(postgres_database) as proxy:
        proxy.answers.dropping = True
        async with open_rig(proxy.url_of(postgres_database), connect_timeout_seconds=0.4) as rig:
            started = time.monotonic()
            with pytest.raises(BackendUnavailable, match=r"within 0\.4 s"):
                await rig.storage().read("r")
            assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("change", "error", "advice"),
    [
        (lambda dsn: dsn.rpartition("/")[0] + "/missing", BackendError, "CREATE DATABASE"),
        (lambda dsn: dsn.replace("specstar_owner:", "specstar_owner:wrong"), BackendError, "user and password"),
        (lambda dsn: dsn.replace("127.0.0.1:", "127.0.0.1:seven"), ConfigError, "cannot be parsed"),
        (lambda dsn: dsn.replace("127.0.0.1:", "name.invalid:"), BackendUnavailable, "cannot reach"),
        (lambda dsn: dsn + "?sslmode=nonsense", ConfigError, "cannot be parsed"),
        (lambda dsn: dsn + "?sslmode=require", BackendError, "sslmode"),
    ],
    ids=["database", "password", "port", "host", "parameter", "tls"],
)
async def test_a_wrong_dsn_is_explained_without_its_password(
    postgres_database: str, change: Any, error: type[Exception], advice: str
) -> None:
    dsn = change(postgres_database)
    password = postgres_database.partition(":")[2].partition(":")[2].partition("@")[0]
    async with open_rig(dsn) as rig:
        with pytest.raises(error, match=advice) as caught:
            await rig.storage().read("r")
    chain: BaseException | None = caught.value
    while chain is not None:
        assert password not in str(chain)
        chain = chain.__cause__


async def test_a_database_that_cannot_hold_all_text_is_refused(private_postgres: services.PostgresServer) -> None:
    private_postgres.sql("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    async with open_rig(private_postgres.endpoint.database("latin")) as rig:
        with pytest.raises(BackendError, match="has the encoding LATIN1"):
            await rig.storage().read("r")


async def test_an_old_server_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specstar.backends.postgres.connection._OLDEST", 999)
    with pytest.raises(BackendError, match="999 or later is needed"):
        await rig.storage().read("r")


async def test_a_full_pool_says_so(postgres_database: str) -> None:
    async with open_rig(postgres_database, pool_max_size=1, acquire_timeout_seconds=0.3) as rig:
        connection = await rig.connection()
        async with connection.session():
            with pytest.raises(
                BackendUnavailable, match=r"within 0\.3 s \(pool of 1: 1 open, 1 in use, 1 calls waiting\)"
            ):
                await rig.storage().read("r")
        assert await rig.storage().read("r") is None


async def test_waiting_callers_get_their_turn_in_order(postgres_database: str) -> None:
    async with open_rig(postgres_database, pool_max_size=1) as rig:
        connection = await rig.connection()
        order: list[int] = []

        async def call(number: int) -> None:
            await connection.fetch("SELECT pg_sleep(0.01)")
            order.append(number)

        await asyncio.gather(*(call(number) for number in range(20)))
        assert order == list(range(20))


async def test_a_statement_that_takes_too_long_is_ended_on_the_server_too(postgres_database: str) -> None:
    async with open_rig(postgres_database, command_timeout_seconds=0.3) as rig, admin(postgres_database) as look:
        connection = await rig.connection()
        with pytest.raises(BackendUnavailable, match=r"did not answer within 0\.3 s"):
            await connection.fetch("SELECT pg_sleep(60)")
        await _until(lambda: _busy(look), 0)
        assert await rig.storage().read("r") is None


async def _busy(look: Any) -> int:
    sql = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE query LIKE '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid()"
    )
    return int(await look.fetchval(sql))


async def _until(measure: Any, wanted: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while (seen := await measure()) != wanted:
        assert time.monotonic() < deadline, f"{seen} instead of {wanted}"
        await asyncio.sleep(0.02)


async def test_idle_connections_are_closed_after_a_while(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specstar.backends.postgres.pool._IDLE_SECONDS", 0.2)
    async with open_rig(postgres_database, pool_min_size=1) as rig:
        pool = (await rig.connection()).pool
        connection = await rig.connection()
        await asyncio.gather(*(connection.fetch("SELECT pg_sleep(0.05)") for _ in range(4)))
        assert pool.size == 4

        async def size() -> int:
            return pool.size

        await _until(size, 1)
        assert await rig.storage().read("r") is None


async def test_the_session_settings(rig: Rig, postgres_database: str) -> None:
    connection = await rig.connection()
    rows = await connection.fetch(
        "SELECT current_setting('application_name'), current_setting('jit'), current_setting('transaction_isolation')"
    )
    assert tuple(rows[0]) == ("specstar", "off", "read committed")
    async with open_rig(postgres_database + "?application_name=mine") as other:
        rows = await (await other.connection()).fetch("SELECT current_setting('application_name')")
        assert rows[0][0] == "mine"


async def test_a_limit_longer_than_the_server_knows_is_taken(postgres_database: str) -> None:
    async with open_rig(postgres_database, command_timeout_seconds=1e9) as rig:
        assert await rig.storage().read("r") is None


async def test_no_statement_is_spent_on_giving_a_connection_back(rig: Rig, postgres_database: str) -> None:
    storage = rig.storage()
    await storage.read("r")
    async with admin(postgres_database) as look:
        count = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        await look.execute("SELECT pg_stat_force_next_flush()")
        seen: list[str] = []
        connection = await rig.connection()
        async with connection.session() as session:
            session.add_query_logger(lambda record: seen.append(record.query))
        for _ in range(5):
            await storage.read("r")
        assert len(seen) == 5
        assert await look.fetchval(count) is not None


async def test_ping_tells_version_and_pool(rig: Rig) -> None:
    info = await (await rig.connection()).ping()
    assert info.version.startswith("PostgreSQL 1")
    assert "pool of 8" in info.detail


async def test_calls_recover_after_the_server_is_restarted(private_postgres: services.PostgresServer) -> None:
    async with open_rig(private_postgres.dsn) as rig:
        storage = rig.storage("Restarted")
        await asyncio.gather(*(storage.write(new(name)) for name in ids("a", 30)))
        await asyncio.to_thread(private_postgres.stop)
        started = time.monotonic()
        with pytest.raises(BackendUnavailable):
            await storage.write(new("down"))
        with pytest.raises(BackendUnavailable):
            await storage.read("a00001")
        assert time.monotonic() - started < 5
        await asyncio.to_thread(private_postgres.start)
        assert isinstance(await storage.read("a00001"), StoredRevision)
        await storage.write(new("up"))
        assert await storage.read("down") is None


async def test_nothing_acknowledged_is_lost_when_the_server_is_killed_under_load(
    private_postgres: services.PostgresServer,
) -> None:
    async with open_rig(private_postgres.dsn) as rig:
        storage = rig.storage("Killed")
        acknowledged: set[str] = set()
        refused: set[str] = set()
        unknown: set[str] = set()
        running = True

        async def caller(number: int) -> None:
            count = 0
            while running:
                name = f"{number}-{count}"
                count += 1
                try:
                    await storage.write(new(name, name.encode()))
                    acknowledged.add(name)
                except OutcomeUnknownError:
                    unknown.add(name)
                except BackendUnavailable:
                    refused.add(name)
                    await asyncio.sleep(0.02)

        callers = [asyncio.create_task(caller(number)) for number in range(32)]
        for _ in range(2):
            await asyncio.sleep(0.7)
            await asyncio.to_thread(private_postgres.kill)
            await asyncio.sleep(0.2)
            await asyncio.to_thread(private_postgres.start)
        await asyncio.sleep(0.7)
        running = False
        await asyncio.gather(*callers)
        assert len(acknowledged) > 100
        names = sorted(acknowledged)
        found = await storage.read_many(names)
        assert [entry.payload.decode() for entry in found if entry] == names
        gone = await storage.read_many(sorted(refused))
        assert not any(gone), "a write that was refused is there"
        assert len(unknown) <= 64


async def test_connections_ended_by_the_server_are_replaced(rig: Rig, postgres_database: str) -> None:
    storage = rig.storage()
    await storage.write(new("r", b"1"))
    async with admin(postgres_database) as look:
        end = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        acknowledged = []
        for number in range(60):
            if number % 6 == 0:
                await look.fetch(end)
            await storage.write(new(f"w{number}"))
            acknowledged.append(f"w{number}")
            assert await storage.read("r") is not None
    assert all(await storage.read_many(acknowledged))


async def test_a_server_without_free_connections_is_unavailable_not_broken(
    private_postgres: services.PostgresServer,
) -> None:
    async with open_rig(private_postgres.dsn) as rig:
        storage = rig.storage("Crowded")
        await storage.write(new("r"))
        async with admin(private_postgres.dsn) as crowd:
            await crowd.execute("ALTER ROLE specstar_owner CONNECTION LIMIT 2")
            try:
                async with open_rig(private_postgres.dsn) as late:
                    outcome = await _outcome(late.storage("Crowded").read("r"))
                    assert outcome is None or isinstance(outcome, BackendUnavailable)
            finally:
                await crowd.execute("ALTER ROLE specstar_owner CONNECTION LIMIT -1")
        assert await storage.read("r") is not None


async def _outcome(call: Any) -> Exception | None:
    try:
        await call
    except SpecstarError as error:
        return error
    return None


async def test_a_read_only_server_is_explained(private_postgres: services.PostgresServer) -> None:
    async with open_rig(private_postgres.dsn) as rig:
        storage = rig.storage("Standby")
        await storage.write(new("r"))
        private_postgres.sql("ALTER SYSTEM SET default_transaction_read_only = on")
        private_postgres.sql("SELECT pg_reload_conf()")
        try:
            async with open_rig(private_postgres.dsn) as late:
                with pytest.raises(BackendError, match="point the dsn at the primary"):
                    await late.storage("Standby").write(new("r2"))
                assert await late.storage("Standby").read("r") is not None
        finally:
            configuration = private_postgres.data / "postgresql.auto.conf"
            configuration.write_text("")
            private_postgres.sql("SELECT pg_reload_conf()")


async def test_connections_to_a_server_that_became_read_only_are_left(postgres_database: str) -> None:
    """After a failover the same address leads to another server; connections to the old one may stay open for ever."""
    name = postgres_database.rpartition("/")[2]
    async with admin(postgres_database) as look, open_rig(postgres_database) as rig:
        storage = rig.storage()
        await storage.write(new("before"))
        await look.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        connection = await rig.connection()
        await asyncio.gather(*(connection.fetch("SELECT pg_sleep(0.05)") for _ in range(3)))
        await look.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'specstar' "
            "AND datname = current_database()"
        )
        for _ in range(2):
            with pytest.raises(BackendError, match="point the dsn at the primary"):
                await storage.write(new("during"))
        await look.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        with contextlib.suppress(BackendError):
            await storage.write(new("noticing"))
        await storage.write(new("after"))
        assert await storage.read("during") is None


async def test_cancelled_callers_leak_nothing(postgres_database: str) -> None:
    """Thousands of cancellations at random moments, of batched and of direct calls."""
    async with open_rig(postgres_database, pool_max_size=4) as rig, admin(postgres_database) as look:
        storage: Any = rig.storage()
        seeds = [new(name, os.urandom(200)) for name in ids("r", 50)]
        await storage.write_many(seeds)
        large = new("large", os.urandom(9 << 20))
        await storage.write(large)
        chance = random.Random(7)
        calls = [
            lambda number: storage.write(new(f"w{number}", b"x")),
            lambda number: storage.read(f"r{number % 50:05d}"),
            lambda number: storage.list_revisions(f"r{number % 50:05d}"),
            lambda number: storage.write(change_of(seeds[number % 50])),
            lambda number: storage.erase(f"w{number - 7}"),
            lambda number: storage.count(),
            lambda number: storage.write_many([new(f"m{number}-{part}") for part in range(20)]),
        ]
        cancelled = 0
        for wave in range(40):
            tasks = []
            for position in range(100):
                number = wave * 100 + position
                tasks.append(asyncio.create_task(_quiet(calls[number % len(calls)](number))))
            tasks.append(asyncio.create_task(_quiet(storage.read("large"))))
            for task in chance.sample(tasks, 75):
                await asyncio.sleep(chance.random() * 0.0003)
                cancelled += task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert cancelled > 100
        connection = await rig.connection()

        async def busy() -> int:
            return connection.pool.busy

        await _until(busy, 0)
        assert connection.pool.size > 0
        state = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend' AND state <> 'idle'"
        )
        await _until(lambda: look.fetchval(state), 0)
        locks = (
            "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
            "WHERE a.datname = current_database() AND pid <> pg_backend_pid() AND a.backend_type = 'client backend'"
        )
        assert await look.fetchval(locks) == 0
        assert connection.pool.usage().endswith("0 in use, 0 calls waiting")
        tasks_left = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
        assert len(tasks_left) <= 4
        assert isinstance(await storage.read("r00001"), StoredRevision)


async def _quiet(call: Any) -> None:
    try:
        await call
    except SpecstarError:
        return


async def test_ten_thousand_calls_over_a_pool_of_two(postgres_database: str) -> None:
    async with open_rig(postgres_database, pool_max_size=2) as rig:
        storage = rig.storage()
        await storage.write_many([new(name, b"x") for name in ids("r", 1000)])
        calls: list[Any] = []
        for number in range(5000):
            calls += [storage.read(f"r{number % 1000:05d}"), storage.write(new(f"w{number}"))]
        slow = asyncio.create_task((await rig.connection()).fetch("SELECT pg_sleep(1)"))
        outcomes = await asyncio.gather(*calls)
        await slow
        assert all(isinstance(outcome, StoredRevision) for outcome in outcomes[::2])
        assert (await rig.connection()).pool.size <= 2
        assert await storage.count() == 6000


async def test_closing_ends_calls_that_hang(postgres_database: str) -> None:
    rig = Rig(PostgresOptions(dsn=postgres_database))
    connection = await rig.connection()
    hanging = asyncio.create_task(connection.fetch("SELECT pg_sleep(60)", timeout=60))
    await asyncio.sleep(0.2)
    started = time.monotonic()
    await rig.lazy.aclose(0.5)
    assert time.monotonic() - started < 3
    with pytest.raises(BackendUnavailable):
        await hanging
    with pytest.raises(BackendUnavailable, match="closed"):
        await connection.fetch("SELECT 1")
    await rig.aclose()


FORKS = """
import asyncio, os, sys
from tests.faults.tools.tcp_proxy import TcpProxy
from tests.integration.postgres.rig import Rig, new
from specstar.backends.postgres import PostgresOptions
from specstar.backends.postgres.hosts import connect
from specstar.backends.postgres.session import Session

async def child(dsn):
    rig = Rig(PostgresOptions(dsn=dsn))
    await rig.storage().write(new("from-child"))
    await rig.aclose()

if sys.argv[2] == "uvloop":
    import uvloop
    loop = uvloop.new_event_loop()
else:
    loop = asyncio.new_event_loop()
state = {}

async def run():
    state["rig"] = rig = Rig(PostgresOptions(dsn=sys.argv[1], pool_min_size=3))
    await rig.storage().write(new("before"))

loop.run_until_complete(run())
pid = os.fork()
if pid == 0:
    rig = state["rig"]
    opened = rig.lazy.opened
    sockets = [session._transport.get_extra_info("socket").fileno() for session in opened.pool._sessions]
    rig.lazy.abandon()
    links = [os.readlink("/proc/self/fd/%d" % fd) for fd in sockets]
    assert links == ["/dev/null"] * len(sockets) and sockets, links
    import gc
    gc.collect()
    fresh = asyncio.new_event_loop()
    fresh.run_until_complete(child(sys.argv[1]))
    fresh.close()
    sys.stdout.flush()
    os._exit(0)
_, status = os.waitpid(pid, 0)
assert status == 0, status

async def after():
    rig = state["rig"]
    storage = rig.storage()
    sizes = rig.lazy.opened.pool.size
    assert sizes >= 3, sizes
    for number in range(20):
        await storage.write(new("after%d" % number))
    assert await storage.read("from-child") is not None
    assert rig.lazy.opened.pool.size == sizes
    await rig.aclose()

loop.run_until_complete(after())
loop.close()
print("fine")
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_forked_child_leaves_its_parents_sessions_alone(postgres_database: str, loop: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", FORKS, postgres_database, loop,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert (out, err, process.returncode) == (b"fine\n", b"", 0)


def test_a_connection_whose_loop_is_gone_lets_go_of_its_sockets(postgres_database: str) -> None:
    async def opened() -> Rig:
        rig = Rig(PostgresOptions(dsn=postgres_database))
        await rig.storage().write(new("r"))
        return rig

    async def count() -> int:
        async with admin(postgres_database) as look:
            sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'specstar'"
            await _until(lambda: look.fetchval(sql), 0)
            return 0

    with asyncio.Runner() as runner:
        rig = runner.run(opened())
    sessions: list[Any] = list(rig.lazy.opened.pool._sessions) if rig.lazy.opened else []
    transports = [session._transport for session in sessions]
    rig.lazy.abandon()
    with asyncio.Runner() as runner:
        assert runner.run(count()) == 0
    for transport in transports:
        transport._sock.close()
        transport._sock = None


async def test_a_regular_expression_that_takes_too_long_is_cancelled_on_the_server(postgres_database: str) -> None:
    fields = (IndexedField("text", frozenset({"string"})),)
    async with open_rig(postgres_database, command_timeout_seconds=0.5) as rig, admin(postgres_database) as look:
        noise = random.Random(7)
        texts = ["".join(noise.choices("ab", k=60_000)) for _ in range(40)]
        # Written by another, whom a busy machine may keep waiting for longer.
        async with open_rig(postgres_database) as writer:
            items = [new(f"r{number}", text=text) for number, text in enumerate(texts)]
            assert await writer.storage(fields=fields).write_many(items) == [None] * len(items)
        storage = rig.storage(fields=fields)
        # Each place in the text is a new state of PostgreSQL's engine.
        slow = QB["text"].regex("(a|b)*a(a|b){100}c")
        started = time.monotonic()
        with pytest.raises(BackendUnavailable, match=r"within 0\.5 s"):
            await storage.search(build_query(slow, fields=fields))
        assert time.monotonic() - started < 5
        running = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%~%' AND pid <> pg_backend_pid()"
        deadline = time.monotonic() + 5
        while await look.fetchval(running):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        assert await storage.count(QB["text"].ends_with("")) == 40


async def test_a_transaction_that_is_cancelled_again_and_again_is_rolled_back_without_a_word(
    postgres_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_rig(postgres_database, pool_max_size=1) as rig, admin(postgres_database) as other:
        storage = rig.storage()
        await storage.write(new("r"))
        connection = await rig.connection()
        for number in range(40):
            async with other.transaction():
                await other.execute('SELECT FROM "User_meta" FOR UPDATE')
                # A scope of anyio cancels each wait anew, also those that clean up.
                with anyio.move_on_after(0.0005 * number):
                    async with connection.transaction() as session:
                        await session.execute('DELETE FROM "User_meta"')
        assert isinstance(await storage.read("r"), StoredRevision)
        assert (
            await other.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in tr%'"
            )
            == 0
        )
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_cancelled_connect_says_nothing_and_leaves_nothing(postgres_database: str) -> None:
    loop = asyncio.get_running_loop()
    said: list[str] = []
    loop.set_exception_handler(lambda _loop, context: said.append(context["message"]))
    try:
        for turns in [turns for turns in range(50) for _ in range(2)]:
            # The server has no TLS: by default that is found out by asking.
            dsn = f"{postgres_database}?application_name=cancelled"
            opening = asyncio.create_task(connect(dsn, timeout=10, connection_class=Session))
            for _ in range(turns):
                await asyncio.sleep(0)
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                (await opening).terminate()
            del opening
        gc.collect()
    finally:
        loop.set_exception_handler(None)
    assert said == []
    async with admin(postgres_database) as look:
        with anyio.fail_after(10):
            left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cancelled'"
            while await look.fetchval(left):  # noqa: ASYNC110  the server sets none
                await anyio.sleep(0.01)


async def test_cancelled_statements_do_not_fill_the_memory_of_the_server(postgres_database: str) -> None:
    async with open_rig(postgres_database, pool_max_size=1) as rig:
        connection = await rig.connection()
        for number in range(600):
            # Each is new to the server, which has to prepare it, and takes its time to.
            reading = asyncio.create_task(connection.fetch(f"SELECT {number}, $1::text", "x"))
            for _ in range(2 + number % 4):
                await asyncio.sleep(0)
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
        rows = await connection.fetch("SELECT count(*) FROM pg_prepared_statements")
        # Those that the driver still knows, and those of the last cancelled ones.
        assert rows[0][0] <= 210
