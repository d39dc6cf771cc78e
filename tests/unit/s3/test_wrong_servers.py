"""What stands at `endpoint_url`, or in the AWS configuration of this machine, and is not what it should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from specstar.errors import BackendError, BackendUnavailable
from specstar.roles import PayloadKey
from tests.conformance.samples import created
from tests.faults.tools.scripted_s3 import Fault, ScriptedS3
from tests.unit.s3.rig import opened, options_for

pytestmark = pytest.mark.anyio

KEY = PayloadKey("r", "p")
OTHER = PayloadKey("r", "other")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_nothing_is_sent_where_an_answer_points_to(server: ScriptedS3, status: int) -> None:
    async with ScriptedS3() as other, opened(options_for(server.endpoint_url)) as rig:
        store = rig.resource()
        await store.put(KEY, b"x")
        location = f"{other.endpoint_url}/bucket/login?token=hidden"
        server.script = lambda method, key, number: Fault(status, headers={"Location": location})
        other.put("bucket/login", b"<html>Who are you?</html>")
        for call in (store.get(KEY), store.put(OTHER, b"y" * 200_000), store.delete_many([KEY, OTHER])):
            with pytest.raises(BackendError, match=f"redirected to {other.endpoint_url}: set endpoint_url") as caught:
                await call
            assert "hidden" not in str(caught.value)
            assert not isinstance(caught.value, BackendUnavailable)
        assert other.requests == []


async def test_a_redirect_on_the_way_to_the_bucket_is_told_at_once(server: ScriptedS3) -> None:
    """Such as one to https, for every request: the driver looks for another region, once."""
    server.script = lambda method, key, number: Fault(301, headers={"Location": "https://127.0.0.1:9/bucket"})
    async with opened(options_for(server.endpoint_url)) as rig:
        with pytest.raises(BackendError, match=r"redirected to https://127\.0\.0\.1:9: set endpoint_url"):
            await rig.resource().get(KEY)
    assert len(server.requests) < 10


@pytest.mark.parametrize("method", ["HEAD", "HEAD GET"])
async def test_a_bucket_in_another_region_is_told_with_its_region(server: ScriptedS3, method: str) -> None:
    """AWS, here behind a proxy, says where it is, and the driver would follow."""
    proxied = {"use_ssl": False, "config": {"proxies": {"http": server.endpoint_url}}}
    headers = {"x-amz-bucket-region": "eu-west-1"}
    server.script = lambda asked, key, number: Fault(301, "", headers=headers) if asked in method else None
    options = options_for("http://unused.test", client_kwargs=proxied, region_name="us-east-1")
    async with opened(msgspec.structs.replace(options, endpoint_url=None)) as rig:
        with pytest.raises(BackendError, match=r"'eu-west-1'.*set region_name"):
            await rig.resource().get(KEY)
    assert len(server.requests) < 10


async def test_a_server_that_says_yes_to_everything_takes_no_writes(server: ScriptedS3) -> None:
    async with opened(options_for(server.endpoint_url)) as rig:
        store, meta = rig.resource(), rig.meta()
        await store.put(KEY, b"x")
        server.script = lambda method, key, number: Fault(200)
        for call in (store.put(OTHER, b"y"), store.get(KEY), meta.write(created("r"))):
            with pytest.raises(BackendError, match="does not come from S3; check endpoint_url"):
                await call


@pytest.mark.parametrize(
    ("text", "profile", "advice"),
    [
        ("[default]\n", None, "no credentials found"),
        ("[default]\n", "nobody", "the AWS profile that AWS_PROFILE names does not exist"),
        ("[default]\ncredential_process = /bin/echo hidden\n", None, "cannot be used .JSONDecodeError.; check ~/.aws"),
        ("[default]\ncredential_process = /no/such/program\n", None, "cannot be used .FileNotFoundError.; check"),
        ("no configuration {\n", None, "cannot be used .ConfigParseError.; check"),
        ("[default]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = nobody\n", None, "cannot be used"),
    ],
)
async def test_credentials_that_cannot_be_had_are_told_with_the_way_out(
    server: ScriptedS3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    profile: str | None,
    advice: str,
) -> None:
    config = tmp_path / "config"
    config.write_text(text)
    environ: dict[str, Any] = {"AWS_CONFIG_FILE": config, "AWS_SHARED_CREDENTIALS_FILE": tmp_path / "none"}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**environ, "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, str(value))
    if profile is not None:
        monkeypatch.setenv("AWS_PROFILE", profile)
    options = options_for(server.endpoint_url, access_key_id=None, secret_access_key=None)
    async with opened(options) as rig:
        with pytest.raises(BackendError, match=advice) as caught:
            await rig.resource().get(KEY)
        assert not isinstance(caught.value, BackendUnavailable)
        assert "hidden" not in str(caught.value)
