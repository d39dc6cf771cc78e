"""A slow line that works: what takes longer than the time limit in all is sent, as long as each part of it comes in time."""

from __future__ import annotations

from typing import Any

import pytest

from specstar.backends.rabbitmq import outbox
from specstar.roles import Message
from tests.faults.tools.tcp_proxy import TcpProxy
from tests.integration.rabbitmq.rig import open_rig

pytestmark = pytest.mark.anyio


async def test_many_messages_may_take_longer_than_the_publish_timeout(
    amqp_url: str, queue_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_TOGETHER_BYTES", 256 << 10)
    async with TcpProxy.before(amqp_url, narrow=True) as proxy:
        options: dict[str, Any] = {"publish_timeout_seconds": 3.0, "delay_queue_expiry_seconds": 30.0}
        async with open_rig(proxy.url_of(amqp_url), queue_prefix, **options) as rig:
            queue = rig.queue()
            await queue.publish(Message(id="first", body=b"{}"))
            proxy.requests.delay = 0.05  # for 64 KiB: over four seconds for all
            await queue.publish_many([Message(id=f"m{number}", body=b"x" * (256 << 10)) for number in range(24)])
            proxy.requests.delay = 0.0
            assert await queue.depth() == 25
