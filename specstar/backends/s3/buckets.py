"""The buckets as the connection finds them: whether they are there, whether they may be used, and who serves them."""

from __future__ import annotations

import logging
from typing import Any

from specstar.backends.s3.answers import headers_of
from specstar.backends.s3.errors import AccessDenied, ObjectMissing, endpoint_of, expected_region
from specstar.backends.s3.options import S3Options
from specstar.backends.s3.requests import Requests
from specstar.errors import BackendError, BackendUnavailable
from specstar.runtime import ServerInfo

__all__ = ["look_at_buckets"]

logger: logging.Logger = logging.getLogger("specstar")


async def look_at_buckets(requests: Requests, options: S3Options) -> ServerInfo:
    """Look at the bucket of each role; the version is what the server calls itself. Raises as `Requests.call`, with advice."""
    buckets = dict.fromkeys((options.bucket, options.bucket_of_blobs))
    answers = {bucket: await _look_at(bucket, requests, options) for bucket in buckets}
    headers = headers_of(answers[options.bucket])
    server = headers.get("server") or ("Ceph RGW" if "x-rgw-object-count" in headers else "S3-compatible")
    return ServerInfo(version=server, detail=f"{endpoint_of(options)}, bucket {', '.join(answers)}")


async def _look_at(bucket: str, requests: Requests, options: S3Options) -> dict[str, Any]:
    region = None
    try:
        answer = await requests.call("head_bucket", Bucket=bucket)
    except BackendUnavailable:
        raise
    except BackendError as error:
        region = expected_region(error.__cause__)
        # The answer to HEAD has no body and so no reason: ask again with a request that has one.
        try:
            answer = await requests.call("list_objects_v2", Bucket=bucket, MaxKeys=1, Prefix=options.prefix)
        except ObjectMissing:
            raise error from None
        except BackendUnavailable:
            raise
        except AccessDenied as told:
            # A key may lack the right to list and still do its work: let the work say.
            logger.warning("%s", told)
            return {}
    region = region or headers_of(answer).get("x-amz-bucket-region")
    if options.endpoint_url is None and region and region != options.region_name:
        raise BackendError(
            f"bucket {bucket!r} is in region {region!r}, not in {options.region_name!r}: set region_name",
            backend=f"s3 at {endpoint_of(options)}",
        )
    return answer
