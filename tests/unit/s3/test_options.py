"""Options of backend type s3 and how the client is made of them."""

from __future__ import annotations

import traceback
from typing import Any

import msgspec
import pytest
from botocore.config import Config

from specstar.backends.s3 import S3Options, S3Provider
from specstar.backends.s3.client import client_arguments
from specstar.config import BackendConfig, resolve_config
from specstar.errors import ConfigError

PROVIDER = S3Provider()


def make(**given: Any) -> S3Options:
    return msgspec.convert({"bucket": "bucket", **given}, S3Options)


def resolved(options: dict[str, Any], defaults: dict[str, Any] | None = None) -> S3Options:
    binding = {"type": "s3", "options": options}
    config = msgspec.convert(
        {"defaults": defaults or {}, "meta": binding, "resource": binding, "blob": binding}, BackendConfig
    )
    found = resolve_config(config).blob.options
    assert isinstance(found, S3Options)
    return found


def test_the_defaults_are_those_of_the_reference() -> None:
    options = make()
    assert options.region_name == "us-east-1"
    assert options.auto_sync is True
    assert options.sync_interval == 0
    assert options.enable_locking is True
    assert options.auto_reload_on_conflict is False
    assert options.check_etag_on_read is True
    assert options.blob_prefix == "blobs/"
    assert options.upload_method == "proxy"
    assert options.presigned_url_expiry == 3600
    assert options.bucket_of_blobs == "bucket"
    assert make(blob_bucket="other").bucket_of_blobs == "other"


def test_aliases_and_shared_defaults_reach_the_options() -> None:
    options = resolved(
        {
            "bucket": "bucket",
            "s3_access_key_id": "AK",
            "s3_secret_access_key": "SK",
            "s3_region": "eu-west-1",
            "s3_endpoint_url": "http://127.0.0.1:1",
            "s3_client_kwargs": {"verify": False},
        },
        {"blob_prefix": "uploads/", "upload_method": "single_put", "presigned_url_expiry": 900, "encoding": "msgpack"},
    )
    assert (options.access_key_id, options.secret_access_key, options.region_name) == ("AK", "SK", "eu-west-1")
    assert (options.endpoint_url, options.client_kwargs) == ("http://127.0.0.1:1", {"verify": False})
    assert (options.blob_prefix, options.upload_method, options.presigned_url_expiry) == ("uploads/", "single_put", 900)
    assert options.encoding == "msgpack"
    own = resolved({"bucket": "bucket", "blob_prefix": "mine/"}, {"blob_prefix": "uploads/"})
    assert own.blob_prefix == "mine/"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"access_key_id": "AK"}, "secret_access_key"),
        ({"prefix": "/rooted"}, "prefix"),
        ({"blob_prefix": "a\0b"}, "blob_prefix"),
        ({"client_kwargs": {"verfy": False}}, "verify"),
        ({"client_kwargs": {"verify": 5}}, "verify is true, false, or the path"),
        ({"access_key_id": "AK\n", "secret_access_key": "SK"}, r"access_key_id:? begins or ends with white space"),
        ({"access_key_id": "AK", "secret_access_key": "hidden\n"}, r"secret_access_key:? begins or ends"),
        ({"access_key_id": "AK", "secret_access_key": "hid\x07den"}, r"secret_access_key:? has characters"),
        ({"client_kwargs": {"aws_session_token": "hidden\n"}}, "aws_session_token begins or ends with white space"),
        ({"client_kwargs": {"aws_session_token": ["hidden"]}}, "aws_session_token is text"),
        ({"client_kwargs": {"endpoint_url": "http://u:hidden@127.0.0.1:1"}}, "endpoint_url holds no user or password"),
        ({"client_kwargs": {"endpoint_url": 5}}, "endpoint_url is no URL"),
        ({"client_kwargs": {"config": {"proxies": {"http": "http://u:hidden@h:x"}}}}, "config.proxies.http is no URL"),
        ({"part_size_bytes": 64 << 20}, "part_size_bytes"),
        ({"endpoint_url": "127.0.0.1:9000"}, "endpoint_url"),
        ({"presigned_url_expiry": 700_000}, "presigned_url_expiry"),
        ({"upload_method": "post"}, "upload_method"),
        ({"buckett": "x"}, "bucket"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        resolved({"bucket": "bucket", **options})
    assert "hidden" not in "".join(traceback.format_exception(caught.value))


def test_secrets_are_not_shown() -> None:
    options = make(
        access_key_id="AKIAHIDDEN",
        secret_access_key="very-hidden",
        client_kwargs={"aws_session_token": "token-hidden"},
        endpoint_url="http://user:pass-hidden@127.0.0.1:9000",
    )
    shown = repr(options) + str(options.__rich_repr__()) + str(PROVIDER.connection_key(options))
    assert "hidden" not in shown.lower()
    assert "***" in shown


def test_roles_with_equal_settings_share_a_connection() -> None:
    key = PROVIDER.connection_key
    keys = {"access_key_id": "AK", "secret_access_key": "SK"}
    assert key(make(**keys)) == key(make(**keys, prefix="p", auto_sync=False, upload_method="single_put"))
    assert key(make(**keys)) != key(make(access_key_id="AK", secret_access_key="other"))
    assert key(make()) != key(make(client_kwargs={"config": {"s3": {"use_accelerate_endpoint": True}}}))
    assert key(make()) != key(make(max_pool_connections=3))


def test_the_client_is_made_of_the_options() -> None:
    arguments = client_arguments(
        make(
            endpoint_url="https://s3.example:9000",
            connect_timeout_seconds=1.5,
            read_timeout_seconds=2.5,
            max_pool_connections=7,
            region_name="eu-west-1",
            client_kwargs={
                "verify": __file__,
                "aws_session_token": "t",
                "config": {"s3": {"payload_signing_enabled": True}},
            },
        )
    )
    config = arguments["config"]
    assert (config.connect_timeout, config.read_timeout, config.max_pool_connections) == (1.5, 2.5, 7)
    assert config.s3 == {"addressing_style": "path", "payload_signing_enabled": True}
    assert config.signature_version == "s3v4"
    assert config.request_checksum_calculation == "when_required"
    assert config.connector_args["keepalive_timeout"] < 15
    assert (arguments["verify"], arguments["aws_session_token"]) == (__file__, "t")
    assert (arguments["endpoint_url"], arguments["region_name"]) == ("https://s3.example:9000", "eu-west-1")
    assert "aws_access_key_id" not in arguments, "without keys, the ordinary credential chain"


def test_addressing_follows_the_option() -> None:
    def style(**given: Any) -> str:
        found: str = client_arguments(make(**given))["config"].s3["addressing_style"]
        return found

    assert style() == "auto"
    assert style(endpoint_url="http://h:1") == "path"
    assert style(endpoint_url="http://h:1", addressing_style="virtual") == "virtual"
    assert style(addressing_style="path") == "path"


@pytest.mark.parametrize("given", [{"retries": {"max_attempts": 9}}, Config(retries={"max_attempts": 9})])
def test_there_is_one_retry_layer_whatever_the_user_sets(given: Any) -> None:
    config = client_arguments(make(client_kwargs={"config": given}))["config"]
    assert config.retries["total_max_attempts"] == 1
    assert client_arguments(make())["config"].request_checksum_calculation != "when_required", "AWS keeps its checksums"


def test_a_wrong_client_config_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="config"):
        client_arguments(make(client_kwargs={"config": {"no_such_option": 1}}))
    with pytest.raises(ConfigError, match="config"):
        client_arguments(make(client_kwargs={"config": "text"}))


def test_a_ca_file_that_is_not_there_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"no CA certificates at '/no/such\.pem'"):
        client_arguments(make(client_kwargs={"verify": "/no/such.pem"}))
    assert client_arguments(make(client_kwargs={"verify": __file__}))["verify"] == __file__


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://[::1",
        "http://host:port",
        "http://",
        "https://:9000",
        "http://user:hun/hidden@127.0.0.1:1/",
        "http://user:hidden@127.0.0.1",
        "http://host:9000/?x=hidden",
        "http://ho st",
    ],
)
def test_an_endpoint_that_is_none_is_refused_without_being_shown(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="endpoint_url") as caught:
        resolved({"bucket": "bucket", "endpoint_url": endpoint})
    assert "hidden" not in "".join(traceback.format_exception(caught.value))


def test_what_botocore_refuses_is_not_quoted() -> None:
    for config in ({"s3": {"addressing_style": "very-hidden"}}, {"unknown": "very-hidden"}):
        with pytest.raises(ConfigError, match=r"client_kwargs\.config") as caught:
            client_arguments(make(client_kwargs={"config": config}))
        assert "very-hidden" not in "".join(traceback.format_exception(caught.value))
