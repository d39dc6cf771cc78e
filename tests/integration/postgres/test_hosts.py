"""DSNs with several hosts, of which some say nothing or are not what is asked for."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from specstar.errors import BackendUnavailable
from tests.integration.postgres.rig import admin, new, open_rig


@contextlib.asynccontextmanager
async def silent_host() -> AsyncIterator[str]:
    """A host that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def behind(dsn: str, *others: str) -> str:
    """The DSN with these hosts before its own."""
    login, _, rest = dsn.rpartition("@")
    return f"{login}@{','.join([*others, rest])}"


@pytest.mark.parametrize("target", ["any", "read-write", "prefer-standby"])
async def test_a_host_that_says_nothing_leaves_time_for_the_next(postgres_database: str, target: str) -> None:
    async with silent_host() as silent:
        dsn = behind(postgres_database, silent) + f"?target_session_attrs={target}"
        async with open_rig(dsn, connect_timeout_seconds=2) as rig:
            await rig.storage().write(new("r"))
            session = await (await rig.connection()).connect_alone()
            session.terminate()


async def test_hosts_that_all_say_nothing_are_reported_with_the_whole_limit(postgres_database: str) -> None:
    async with silent_host() as one, silent_host() as two:
        login = postgres_database.rpartition("@")[0]
        async with open_rig(f"{login}@{one},{two}/app", connect_timeout_seconds=0.4) as rig:
            with pytest.raises(BackendUnavailable, match=r"within 0\.4 s"):
                await rig.storage().read("r")


async def test_what_target_session_attrs_asks_for_is_asked_of_every_host(postgres_database: str) -> None:
    name = postgres_database.rpartition("/")[2]
    host = postgres_database.rpartition("@")[2].partition("/")[0]
    async with admin(postgres_database) as look:
        await look.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    async with open_rig(behind(postgres_database, host) + "?target_session_attrs=read-write") as rig:
        with pytest.raises(BackendUnavailable, match="target attribute"):
            await rig.storage().read("r")
    async with open_rig(behind(postgres_database, host) + "?target_session_attrs=read-only") as rig:
        connection = await rig.connection()
        assert (await connection.fetch("SHOW transaction_read_only"))[0][0] == "on"
