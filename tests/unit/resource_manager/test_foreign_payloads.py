"""Payloads in a store that outlives the process, of which its meta knows nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from specstar import SpecStar


class User(Struct):
    name: str


async def test_meta_in_memory_takes_no_payload_for_garbage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def program(meta: dict[str, Any]) -> SpecStar:
        spec = SpecStar()
        resource = {"type": "disk", "options": {"rootdir": str(tmp_path / "payloads"), "inline_payload_bytes": 0}}
        spec.configure(backend={"meta": meta, "resource": resource})
        return spec

    production = {"type": "disk", "options": {"rootdir": str(tmp_path / "meta")}}
    async with program(production) as spec:
        users = spec.add_model(User)
        known = (await users.create(User("ada" * 2000))).resource_id
    async with program({"type": "memory"}) as other:
        with caplog.at_level(logging.WARNING, "specstar"):
            assert await other.add_model(User).collect_garbage(older_than_seconds=0) == 0
        assert "cannot tell whose they are" in caplog.text
    async with program(production) as spec:
        users = spec.add_model(User)
        assert (await users.get(known)).data.name == "ada" * 2000
        assert await users.collect_garbage(older_than_seconds=0) == 0
