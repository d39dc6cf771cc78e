"""The S3 backend: metadata, resource payloads and blobs in a bucket, on aioboto3."""

from __future__ import annotations

from specstar.backends.s3.options import S3Options
from specstar.backends.s3.provider import S3Provider

__all__ = ["S3Options", "S3Provider"]
