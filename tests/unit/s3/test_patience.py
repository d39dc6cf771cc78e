"""A slow network that works: what gets through, piece by piece, is not given up because all of it takes long."""

from __future__ import annotations

import pytest

from specstar.backends.s3.body import Body
from specstar.backends.s3.patience import Patience
from specstar.errors import BackendUnavailable
from specstar.roles import PayloadKey
from tests.faults.tools.scripted_s3 import ScriptedS3
from tests.faults.tools.tcp_proxy import TcpProxy
from tests.unit.s3.rig import opened, options_for

pytestmark = pytest.mark.anyio

KEY = PayloadKey("r", "p")
LARGE = bytes(range(256)) * (16 << 10)


async def test_the_limit_begins_anew_with_each_piece_of_the_attempt_under_way() -> None:
    patience = Patience(60)
    async with patience.clock() as clock:
        first = clock.when()
        patience.progress()
        second = clock.when()
    assert first is not None
    assert second is not None
    assert second > first
    patience.over()
    patience.progress()
    assert clock.when() == second, "it is over"
    assert not clock.expired()


async def test_a_body_tells_of_each_piece_that_was_taken() -> None:
    told = 0

    def progress() -> None:
        nonlocal told
        told += 1

    taken = 0
    async for piece in Body(LARGE, None, progress):
        assert told == taken
        taken += 1
        assert len(piece) == 256 << 10
    assert told == taken == 16


async def test_a_large_payload_may_take_longer_than_the_operation_timeout(server: ScriptedS3) -> None:
    async with TcpProxy.before(server.endpoint_url, narrow=True) as proxy:
        options = options_for(
            proxy.url_of(server.endpoint_url), operation_timeout_seconds=1.5, read_timeout_seconds=20, max_attempts=1
        )
        async with opened(options) as rig:
            store = rig.resource()
            await store.put(KEY, b"opens the connection")
            proxy.requests.delay = proxy.answers.delay = 0.05  # for 64 KiB: over three seconds for all
            await store.put(KEY, LARGE)
            assert await store.get(KEY) == LARGE


async def test_a_network_that_stands_still_is_given_up(server: ScriptedS3) -> None:
    async with TcpProxy.before(server.endpoint_url, narrow=True) as proxy:
        options = options_for(proxy.url_of(server.endpoint_url), operation_timeout_seconds=0.5, max_attempts=1)
        async with opened(options) as rig:
            store = rig.resource()
            await store.put(KEY, b"opens the connection")
            proxy.hold()
            with pytest.raises(BackendUnavailable, match=r"not done within 0\.5 s .* operation_timeout_seconds"):
                await store.put(KEY, LARGE)
            proxy.heal()
