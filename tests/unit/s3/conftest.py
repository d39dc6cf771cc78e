"""The S3 driver runs on asyncio: so do these tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.faults.tools.scripted_s3 import ScriptedS3


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": False}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedS3]:
    async with ScriptedS3() as server:
        yield server
