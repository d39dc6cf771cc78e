"""What is made quicker in the driver: the same outcome, with less work."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.endpoint_provider
import botocore.loaders
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.utils import parse_timestamp

from specstar.backends.s3.shortcuts import read_data_once, resolve_endpoints_once, time_of
from specstar.roles import PayloadKey
from tests.faults.tools.scripted_s3 import ScriptedS3
from tests.unit.s3.rig import opened, options_for

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "text",
    [
        "Wed, 25 Nov 2026 10:41:16 GMT",
        "2026-11-25T10:41:16.123Z",
        "2026-11-25T10:41:16Z",
        "2026-11-25T10:41:16+01:00",
        "1795603276",
        pytest.param(1795603276, id="number"),
    ],
)
async def test_times_are_read_as_the_driver_reads_them(text: Any) -> None:
    assert time_of(text) == parse_timestamp(text)
    assert time_of(text).utcoffset() is not None


async def test_times_of_other_forms_go_the_drivers_way() -> None:
    assert time_of("25 November 2026 10:41 UTC") == datetime(2026, 11, 25, 10, 41, tzinfo=UTC)
    with pytest.raises(ValueError, match="nonsense"):
        time_of("nonsense")


async def test_the_drivers_data_is_read_by_the_first_connection_only(
    server: ScriptedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_for(server.endpoint_url)
    async with opened(options) as rig:
        await rig.resource().put(PayloadKey("r", "p"), b"x")

    def refuse(_loader: object, path: str) -> object:
        raise AssertionError(f"{path} is read again")

    monkeypatch.setattr(botocore.loaders.JSONFileLoader, "load_file", refuse)
    async with opened(options) as rig:
        assert await rig.resource().get(PayloadKey("r", "p")) == b"x"


def test_who_has_data_of_his_own_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaders = []
    for folder in (None, tmp_path, None):
        monkeypatch.delenv("AWS_DATA_PATH", raising=False)
        if folder is not None:
            monkeypatch.setenv("AWS_DATA_PATH", str(folder))
        session: Any = AioSession()
        read_data_once(session)
        loaders.append(session.get_component("data_loader"))
    assert loaders[0] is loaders[2]
    assert str(tmp_path) in loaders[1].search_paths
    assert str(tmp_path) not in loaders[0].search_paths


async def test_an_endpoint_is_found_once_for_a_bucket(server: ScriptedS3, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated: list[object] = []
    original = botocore.endpoint_provider.RuleSet.evaluate

    def counted(self: botocore.endpoint_provider.RuleSet, given: dict[str, object]) -> object:
        evaluated.append(given)
        return original(self, given)

    monkeypatch.setattr(botocore.endpoint_provider.RuleSet, "evaluate", counted)
    async with opened(options_for(server.endpoint_url)) as rig:
        for number in range(20):
            await rig.resource().put(PayloadKey(f"r{number}", "p"), b"x")
            assert await rig.resource().get(PayloadKey(f"r{number}", "p")) == b"x"
    assert len(evaluated) < 6


@pytest.mark.parametrize("bucket", ["plain", "with.dots", "arn:aws:s3:us-west-2:123456789012:accesspoint/mine"])
@pytest.mark.parametrize("style", ["path", "virtual", "auto"])
async def test_endpoints_stay_the_same(bucket: str, style: str) -> None:
    urls: list[str] = []
    for quick in (False, True):
        session: Any = AioSession()
        if quick:
            resolve_endpoints_once(session, None)
        config = AioConfig(signature_version="s3v4", s3={"addressing_style": style})
        keys = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
        async with session.create_client("s3", region_name="us-west-2", config=config, **keys) as client:
            params = {"Bucket": bucket, "Key": "a key/with parts"}
            url = await client.generate_presigned_url("get_object", Params=params)
            urls.append(url.partition("?")[0])
    assert urls[0] == urls[1]


async def test_a_small_body_comes_with_its_request_and_a_large_one_when_it_is_asked_for(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        store = rig.resource()
        await store.put(PayloadKey("r", "small"), b"x" * (1 << 20))
        assert server.asked_for == []
        await store.put(PayloadKey("r", "large"), b"x" * ((1 << 20) + 1))
        assert [key.rpartition("/")[2] for key in server.asked_for] == ["large"]
        assert await store.get(PayloadKey("r", "small")) == b"x" * (1 << 20)
