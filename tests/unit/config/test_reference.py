"""Every example of the configuration reference, as written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from specstar.config import BackendBinding, BackendConfig, BackendDefaults, ConnectionProfile, Encoding, resolve_config


def options(kind: str, role: str = "meta", **given: Any) -> Any:
    resolved = resolve_config({role: {"type": kind, "options": given}})
    return next(bound.options for bound in resolved if bound.role == role)


def test_the_unified_example() -> None:
    resolved = resolve_config(
        BackendConfig(
            connections={
                "local": ConnectionProfile(type="disk", options={"rootdir": "./data"}),
                "jobs": ConnectionProfile(type="simple", options={"max_retries": 3}),
            },
            meta=BackendBinding(use="local"),
            resource=BackendBinding(use="local"),
            blob=BackendBinding(use="local"),
            mq=BackendBinding(use="jobs"),
        )
    )
    assert [(bound.role, bound.type, bound.connection) for bound in resolved] == [
        ("meta", "disk", "local"),
        ("resource", "disk", "local"),
        ("blob", "disk", "local"),
        ("mq", "simple", "jobs"),
    ]
    assert resolved.meta.options.rootdir == "./data"
    assert resolved.mq is not None
    assert resolved.mq.options.max_retries == 3


def test_the_shared_defaults_example() -> None:
    config = BackendConfig(
        defaults=BackendDefaults(table_prefix="app_", blob_prefix="uploads/", presigned_url_expiry=900),
        meta=BackendBinding(type="memory"),
        resource=BackendBinding(type="memory"),
        blob=BackendBinding(type="memory"),
    )
    assert resolve_config(config).defaults.presigned_url_expiry == 900


def test_the_defaults_of_the_defaults() -> None:
    found = BackendDefaults()
    assert (found.encoding, found.table_prefix, found.blob_prefix) == (Encoding.json, "", "blobs/")
    assert (found.upload_method, found.presigned_url_expiry) == ("proxy", 3600)


def test_defaults_reach_every_provider_that_uses_them() -> None:
    defaults = {
        "encoding": "msgpack",
        "table_prefix": "app_",
        "blob_prefix": "up/",
        "upload_method": "single_put",
        "presigned_url_expiry": 9,
    }
    resolved = resolve_config(
        {
            "defaults": defaults,
            "connections": {"pg": {"type": "postgres", "options": {"dsn": "postgresql://h/d"}}},
            "meta": {"use": "pg"},
            "resource": {"type": "disk", "options": {"rootdir": "d"}},
            "blob": {"type": "s3", "options": {"bucket": "bucket"}},
        }
    )
    assert (resolved.meta.options.table_prefix, resolved.meta.options.encoding) == ("app_", Encoding.msgpack)
    assert resolved.resource.options.encoding is Encoding.msgpack
    blob = resolved.blob.options
    assert (blob.blob_prefix, blob.upload_method, blob.presigned_url_expiry) == ("up/", "single_put", 9)
    memory = resolve_config({"defaults": {"encoding": "msgpack"}})
    assert memory.meta.options.encoding is Encoding.msgpack


def test_the_environment_example(tmp_path: Path) -> None:
    path = tmp_path / "backend.json"
    path.write_text(
        """
{
  "connections": {
    "pg": {
      "type": "postgres",
      "options": {
        "dsn": "${POSTGRES_DSN}"
      }
    },
    "blob-s3": {
      "type": "s3",
      "options": {
        "bucket": "${S3_BUCKET}",
        "endpoint_url": "${S3_ENDPOINT_URL}"
      }
    }
  },
  "meta": {"use": "pg"},
  "resource": {"use": "pg"},
  "blob": {"use": "blob-s3"}
}
"""
    )
    environ = {
        "POSTGRES_DSN": "postgresql://user:pass@host:5432/appdb",
        "S3_BUCKET": "files",
        "S3_ENDPOINT_URL": "http://127.0.0.1:9000",
    }
    for source in (path, json.loads(path.read_text())):
        resolved = resolve_config(source, environ=environ)
        assert resolved.meta.options.dsn == environ["POSTGRES_DSN"]
        assert (resolved.blob.options.bucket, resolved.blob.options.endpoint_url) == ("files", "http://127.0.0.1:9000")


def test_the_tables_of_options() -> None:
    assert options("disk", rootdir="d", encoding="msgpack").encoding is Encoding.msgpack
    for name in ("dsn", "connection_string"):
        assert options("postgres", **{name: "postgresql://h/d"}).dsn == "postgresql://h/d"
    s3 = options("s3", bucket="bucket")
    assert (s3.region_name, s3.auto_sync, s3.sync_interval, s3.enable_locking) == ("us-east-1", True, 0, True)
    assert (s3.auto_reload_on_conflict, s3.check_etag_on_read, s3.blob_prefix) == (False, True, "blobs/")
    full = options(
        "s3",
        bucket="bucket",
        blob_bucket="blobs",
        prefix="p/",
        s3_access_key_id="id",
        s3_secret_access_key="key",
        s3_region="eu-central-1",
        s3_endpoint_url="http://h",
        s3_client_kwargs={"verify": False},
        sync_interval=2.5,
    )
    assert (full.access_key_id, full.secret_access_key, full.region_name) == ("id", "key", "eu-central-1")
    assert (full.endpoint_url, full.client_kwargs, full.sync_interval) == ("http://h", {"verify": False}, 2.5)
    assert options("simple", "mq").max_retries == 3
    rabbit = options("rabbitmq", "mq")
    assert rabbit.amqp_url == "amqp://guest:guest@localhost:5672/"
    assert (rabbit.queue_prefix, rabbit.max_retries) == ("specstar:", 3)
    assert (rabbit.retry_delay_seconds, rabbit.amqp_heartbeat_seconds) == (10, 600)


def test_fields_of_existing_files_load() -> None:
    tree = {
        "version": 1,
        "connections": {"c": {"type": "disk", "options": {"rootdir": "d"}, "enabled": True, "tags": ["a"]}},
        "meta": {"use": "c", "type": None, "options": {}, "required": True},
        "mq": None,
    }
    assert resolve_config(tree).meta.tags == ("a",)
