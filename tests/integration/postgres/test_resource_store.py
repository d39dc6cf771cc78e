"""The resource role alone."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Self

import pytest

from specstar.resource_manager.composed import ComposedStorage
from specstar.resource_manager.garbage import collect
from specstar.roles import PayloadKey
from specstar.roles import resource as resource_role
from tests.integration.postgres.rig import Rig, ids


async def test_payloads_come_back_and_go(rig: Rig) -> None:
    store = rig.resource()
    payloads = {PayloadKey(name, "p"): os.urandom(10) for name in ids("r", 300)}
    large = PayloadKey("large", "p")
    payloads[large] = os.urandom(9 << 20)
    await asyncio.gather(*(store.put(key, payload) for key, payload in payloads.items()))
    keys = list(payloads)
    assert await store.get_many(keys) == list(payloads.values())
    assert await asyncio.gather(*(store.get(key) for key in keys)) == list(payloads.values())
    assert await store.get(PayloadKey("no", "p")) is None
    await store.put(keys[0], payloads[keys[0]])
    await store.put_many([(keys[1], payloads[keys[1]]), (PayloadKey("new", "p"), b"")])
    assert await store.get(PayloadKey("new", "p")) == b""
    await store.delete_many([*keys[:10], PayloadKey("no", "p")])
    assert await store.get_many(keys[9:11]) == [None, payloads[keys[10]]]


async def test_a_listing_shows_each_payload_once_with_size_and_age(rig: Rig) -> None:
    store = rig.resource()
    await store.put_many([(PayloadKey(name, "p"), b"x" * (number % 7)) for number, name in enumerate(ids("r", 2500))])
    pages = [page async for page in store.list()]
    assert [len(page) for page in pages] == [1000, 1000, 500]
    listed = {entry.key: entry for page in pages for entry in page}
    assert len(listed) == 2500
    assert listed[PayloadKey("r00013", "p")].size == 13 % 7
    assert datetime.now(UTC) - listed[PayloadKey("r00013", "p")].modified_time < timedelta(minutes=10)


async def test_what_is_garbage_goes_by_the_clock_of_the_server(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    store = rig.resource()
    # Its row is on the way.
    await store.put(PayloadKey("r", "p"), b"payload")
    storage = ComposedStorage(rig.meta(), store, model="User")

    class TwoHoursAhead(datetime):
        """The clock of a host that is wrong."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(super().now(UTC).timestamp() + 7_200, tz)

    monkeypatch.setattr(resource_role, "datetime", TwoHoursAhead)
    monkeypatch.setattr(time, "time", lambda: datetime.now(UTC).timestamp() + 7_200)
    assert await collect(storage, older_than_seconds=3_600) == 0
    assert await store.get(PayloadKey("r", "p")) == b"payload"
    assert await collect(storage, older_than_seconds=0) == 1
