"""The few S3 calls that setting up and tidying need, signed with the standard library alone (Signature Version 4)."""

import base64
import hashlib
import hmac
import http.client
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from urllib.parse import quote, urlencode, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from services.endpoints import S3Endpoint
from services.errors import ServiceError

NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"
TIMEOUT_SECONDS = 20.0


def request(
    endpoint: S3Endpoint, method: str, path: str, query: dict[str, str] | None = None, content: bytes = b""
) -> bytes:
    """The body of the answer. Raises ServiceError for any status but 2xx."""
    address = urlsplit(endpoint.endpoint_url)
    host = address.netloc
    now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{now[:8]}/{endpoint.region}/s3/aws4_request"
    digest = hashlib.sha256(content).hexdigest()
    target, canonical_query = quote(path), urlencode(sorted((query or {}).items()), quote_via=quote)
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": now}
    signed = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = "\n".join([method, target, canonical_query, lines, signed, digest])
    to_sign = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{endpoint.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    credential = f"Credential={endpoint.access_key_id}/{scope}, SignedHeaders={signed}, Signature={signature}"
    headers["authorization"] = f"AWS4-HMAC-SHA256 {credential}"
    if content:  # what deletes many objects must have it
        headers["content-md5"] = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
    secure = address.scheme == "https"
    connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = connect(address.hostname or "", address.port, timeout=TIMEOUT_SECONDS)
    try:
        url = f"{target}?{canonical_query}" if canonical_query else target
        connection.request(method, url, body=content or None, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise ServiceError(f"S3 {method} {path} at {endpoint.endpoint_url}: {error}") from error
    finally:
        connection.close()
    if not 200 <= answer.status < 300:
        raise ServiceError(f"S3 {method} {path}: {answer.status} {answer.reason} {body[:500].decode(errors='replace')}")
    return body


def create_bucket(endpoint: S3Endpoint, bucket: str) -> None:
    request(endpoint, "PUT", f"/{bucket}")


def delete_bucket(endpoint: S3Endpoint, bucket: str) -> None:
    """Removes the bucket with all its objects and unfinished uploads."""
    for key, upload_id in unfinished_uploads(endpoint, bucket):
        request(endpoint, "DELETE", f"/{bucket}/{key}", {"uploadId": upload_id})
    while keys := list_keys(endpoint, bucket):
        delete_objects(endpoint, bucket, keys)
    request(endpoint, "DELETE", f"/{bucket}")


def delete_objects(endpoint: S3Endpoint, bucket: str, keys: Sequence[str]) -> None:
    """Removes up to 1,000 objects in one call. Raises ServiceError if one of them stays."""
    objects = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in keys)
    content = f"<Delete><Quiet>true</Quiet>{objects}</Delete>".encode()
    root = ElementTree.fromstring(request(endpoint, "POST", f"/{bucket}", {"delete": ""}, content))
    if (error := root.find("{*}Error")) is not None:
        raise ServiceError(f"S3 delete in {bucket}: {' '.join(error.itertext())}")


def list_keys(endpoint: S3Endpoint, bucket: str) -> list[str]:
    """At most 1,000 keys."""
    root = ElementTree.fromstring(request(endpoint, "GET", f"/{bucket}", {"list-type": "2"}))
    return [node.text or "" for node in root.iter(f"{NAMESPACE}Key")]


def unfinished_uploads(endpoint: S3Endpoint, bucket: str) -> Iterator[tuple[str, str]]:
    """Key and upload id of multipart uploads neither completed nor aborted; at most 1,000."""
    root = ElementTree.fromstring(request(endpoint, "GET", f"/{bucket}", {"uploads": ""}))
    for node in root.iter(f"{NAMESPACE}Upload"):
        yield node.findtext(f"{NAMESPACE}Key", ""), node.findtext(f"{NAMESPACE}UploadId", "")
