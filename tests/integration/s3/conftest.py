"""The S3 driver runs on asyncio: so do these tests. `options` are those of a fresh bucket on the real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from services.endpoints import S3Endpoint
from specstar.backends.s3 import S3Options
from tests.unit.s3.rig import options_for

Options = Callable[..., S3Options]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": False}


@pytest.fixture
def options(s3: S3Endpoint, s3_bucket: str) -> Options:
    def make(**more: Any) -> S3Options:
        given = {
            "bucket": s3_bucket,
            "access_key_id": s3.access_key_id,
            "secret_access_key": s3.secret_access_key,
            "region_name": s3.region,
            "operation_timeout_seconds": 60.0,
            "read_timeout_seconds": 20.0,
            **more,
        }
        return options_for(s3.endpoint_url, **given)

    return make
