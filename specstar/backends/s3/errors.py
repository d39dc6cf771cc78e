"""What the S3 driver raises, sorted by what can be done about it, and put into words that say what to do."""

from __future__ import annotations

import enum
import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from specstar.backends.tls import tls_reason
from specstar.errors import BackendError, BackendUnavailable, RevisionConflictError, SpecstarError, shown

if TYPE_CHECKING:
    from specstar.backends.s3.options import S3Options

__all__ = [
    "AccessDenied",
    "BytesRefused",
    "ConditionalConflict",
    "Failure",
    "NotImplementedThere",
    "NotModified",
    "ObjectMissing",
    "PreconditionFailed",
    "RangeRefused",
    "RequestFailed",
    "classify",
    "endpoint_of",
    "expected_region",
    "foreign_write",
    "not_s3",
    "translate",
]

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_THROTTLED = frozenset(
    {
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
        "TooManyRequests",
    }
)
_TRANSIENT = frozenset(
    {"InternalError", "ServiceUnavailable", "RequestTimeout", "503 SlowDown", "500", "502", "503", "504"}
)
_CONFLICTS = frozenset({"ConditionalRequestConflict", "OperationAborted", "ConcurrentModification"})
_MISSING = frozenset({"NoSuchKey", "NoSuchUpload", "404", "NotFound"})
# "403" is what the driver makes of an answer without a body.
_DENIED = frozenset({"AccessDenied", "Forbidden", "403", ""})
_OTHER_BYTES = frozenset({"XAmzContentSHA256Mismatch", "BadDigest"})
# https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-auth-using-authorization-header.html: 15 minutes.
_LARGEST_SKEW_SECONDS = 14 * 60
_WRONG_REGION = frozenset(
    {
        "PermanentRedirect",
        "TemporaryRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
        "301",
    }
)


class ObjectMissing(BackendError):
    """404: there is no such object."""


class NotModified(BackendError):
    """304: the object is still the one that is known."""


class PreconditionFailed(BackendError):
    """412: the object is not in the state that the request asked for."""


class ConditionalConflict(BackendError):
    """409: another request on the object was in flight; look again and repeat."""


class NotImplementedThere(BackendError):
    """501: the server does not know the request, or a condition in it."""


class BytesRefused(BackendError):
    """The bytes that arrived do not have the hash that was signed."""


class AccessDenied(BackendError):
    """403: the key is known, and lacks the right to do this."""


class RangeRefused(BackendError):
    """416: the range begins behind the end of the object."""


class RequestFailed(BackendUnavailable):
    """No good answer in time. `sent` False: the server was never reached, so nothing can have happened."""

    def __init__(self, message: str, *, backend: str, sent: bool) -> None:
        super().__init__(message, backend=backend)
        self.sent = sent


class Failure(enum.Enum):
    """What a driver error means for the call."""

    unsent = "the server was not reached"
    unsigned = (
        "credentials could not be fetched (a metadata service is down?); check the credential chain of this machine"
    )
    unanswered = "the request may have been carried out, its answer was lost"
    damaged = "the bytes of the answer do not have the checksum that came with them"
    throttled = "the server is busy and asks to slow down"
    missing = "no such object"
    unchanged = "not modified"
    precondition = "precondition failed"
    conflict = "a conflicting request is in flight"
    range = "range not satisfiable"
    bytes = "the bytes do not have the announced hash"
    unknown = "not implemented by the server"
    refused = "refused for good"

    @property
    def transient(self) -> bool:
        """True if repeating the same idempotent request may work."""
        return self in _REPEATABLE


_NOT_SENT = frozenset({Failure.unsent, Failure.unsigned})
_REPEATABLE = _NOT_SENT | frozenset({Failure.unanswered, Failure.damaged, Failure.throttled, Failure.conflict})


def classify(error: BaseException) -> Failure:
    """Sort an error of the driver, of its HTTP client or of the sockets below."""
    from botocore import exceptions
    from botocore.parsers import ResponseParserError

    if isinstance(error, exceptions.ClientError):
        return _of_answer(error)
    if isinstance(error, exceptions.SSLError):
        return Failure.refused
    if isinstance(error, exceptions.CredentialRetrievalError | exceptions.MetadataRetrievalError):
        return Failure.unsigned
    if isinstance(error, exceptions.ProxyConnectionError):
        return Failure.unsent
    if isinstance(error, exceptions.FlexibleChecksumError):
        return Failure.damaged
    if isinstance(error, exceptions.EndpointConnectionError | exceptions.ConnectTimeoutError):
        return Failure.unsent if _never_connected(error) else Failure.unanswered
    if isinstance(error, exceptions.HTTPClientError | ResponseParserError | OSError | TimeoutError):
        return Failure.unanswered
    import aiohttp

    return Failure.unanswered if isinstance(error, aiohttp.ClientError) else Failure.refused


def _never_connected(error: Any) -> bool:
    """The driver reports a reset of an established connection, too, as an error of the endpoint."""
    import aiohttp

    cause = getattr(error, "kwargs", {}).get("error")
    return isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ServerTimeoutError)


def _of_answer(error: Any) -> Failure:
    code, status = code_of(error), status_of(error)
    if code in _THROTTLED or status == 429:
        return Failure.throttled
    if code in _CONFLICTS:
        return Failure.conflict
    if code in _TRANSIENT or (status >= 500 and status != 501):
        return Failure.throttled if status == 503 else Failure.unanswered
    if code in _MISSING:
        return Failure.missing
    if code in _OTHER_BYTES:
        return Failure.bytes
    if status == 304:
        return Failure.unchanged
    if status == 412:
        return Failure.precondition
    if status == 416:
        return Failure.range
    if status == 501 or code == "NotImplemented":
        return Failure.unknown
    return Failure.conflict if status == 409 and "Bucket" not in code else Failure.refused


def code_of(error: Any) -> str:
    """The error code of an S3 answer."""
    return str(error.response.get("Error", {}).get("Code") or "")


def status_of(error: Any) -> int:
    """The HTTP status of an S3 answer; 0 if it had none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def endpoint_of(options: S3Options) -> str:
    """The endpoint as it may be shown: without user and password."""
    if options.endpoint_url is None:
        return f"AWS {options.region_name}"
    parts = urlsplit(options.endpoint_url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def foreign_write(resource_id: str, model: str) -> RevisionConflictError:
    """The error for a write that met a foreign one to its model, of whichever resource, where nothing is replayed."""
    message = (
        f"{model} {shown(resource_id)} was not written: another process wrote to the metadata of {model} first; repeat the "
        "call, or set auto_reload_on_conflict, which does"
    )
    return RevisionConflictError(resource_id, model=model, message=message)


def not_s3(options: S3Options, *, what: str) -> BackendError:
    """The error for an answer that S3 would not give."""
    return BackendError(
        f"{what}: the answer names no ETag, so it does not come from S3; check endpoint_url",
        backend=f"s3 at {endpoint_of(options)}",
    )


def translate(error: BaseException, failure: Failure, options: S3Options, *, what: str, bucket: str) -> SpecstarError:
    """The specstar error for a driver's error; chain it with `from`. Its message never holds a key."""
    where = f"s3 at {endpoint_of(options)}"
    if failure is Failure.missing:
        return ObjectMissing(f"{what}: no such object", backend=where)
    if failure is Failure.unchanged:
        return NotModified(f"{what}: not modified", backend=where)
    if failure is Failure.precondition:
        return PreconditionFailed(f"{what}: the object was changed meanwhile", backend=where)
    if failure is Failure.conflict:
        return ConditionalConflict(f"{what}: another write of the object is in flight", backend=where)
    if failure is Failure.range:
        return RangeRefused(f"{what}: the range is outside of the object", backend=where)
    if failure is Failure.bytes:
        return BytesRefused(
            f"{what}: the server refused the bytes, they do not have the hash that was signed: they changed while they were "
            "sent; repeat the call",
            backend=where,
        )
    if failure is Failure.unknown:
        return NotImplementedThere(f"{what}: the server does not implement this request", backend=where)
    if failure is Failure.refused:
        kind = AccessDenied if _is_denied(error) else BackendError
        return kind(f"{what}: {_advice(error, options, bucket)}", backend=where)
    message = f"{what}: {failure.value} ({_reason(error)}); retry later"
    return RequestFailed(message, backend=where, sent=failure not in _NOT_SENT)


def _reason(error: BaseException) -> str:
    from botocore.exceptions import ClientError

    if isinstance(error, ClientError):
        return f"HTTP {status_of(error)} {code_of(error)}".strip()
    cause = getattr(error, "kwargs", {}).get("error")
    return type(cause if isinstance(cause, BaseException) else error).__name__


def _advice(error: BaseException, options: S3Options, bucket: str) -> str:
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        return _advice_on_answer(error, options, bucket)
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return (
            "no credentials found; set access_key_id and secret_access_key, or provide them where AWS tools look "
            "(environment variables, ~/.aws, instance role)"
        )
    if isinstance(error, exceptions.TokenRetrievalError):
        return f"credentials could not be fetched ({type(error).__name__}); check the credential chain of this machine"
    if isinstance(error, exceptions.ProfileNotFound):
        return "the AWS profile that AWS_PROFILE names does not exist; unset it or create the profile"
    if isinstance(error, exceptions.SSLError):
        return (
            f"the TLS handshake failed{_tls_failure(error)}; check that endpoint_url is right and its certificate is trusted "
            "(client_kwargs.verify takes a CA file)"
        )
    if isinstance(error, exceptions.ParamValidationError | exceptions.InvalidEndpointDiscoveryConfigurationError):
        return f"bucket {bucket!r} or another parameter is not valid for S3 ({type(error).__name__})"
    if isinstance(error, _unusable_configuration()):
        return (
            f"the AWS configuration of this machine cannot be used ({type(error).__name__}); check ~/.aws and the AWS_ "
            "variables"
        )
    return f"{type(error).__name__}"


def _tls_failure(error: Any) -> str:
    failure = getattr(error, "kwargs", {}).get("error")
    cause = getattr(failure, "certificate_error", None) or getattr(failure, "os_error", None)
    return f" ({tls_reason(cause)})" if cause is not None else ""


def _unusable_configuration() -> tuple[type[Exception], ...]:
    """Of its files, and of the programs that these name."""
    from botocore import exceptions

    return (
        exceptions.ConfigNotFound,
        exceptions.ConfigParseError,
        exceptions.InvalidConfigError,
        exceptions.SSOError,
        OSError,
        ValueError,
    )


def _advice_on_answer(error: Any, options: S3Options, bucket: str) -> str:
    code, status = code_of(error), status_of(error)
    if code == "NoSuchBucket":
        return f"bucket {bucket!r} does not exist; create it, or correct the option bucket (or blob_bucket)"
    if code in ("InvalidAccessKeyId", "InvalidClientTokenId"):
        return "the server does not know this access key; check access_key_id and that it belongs to this endpoint"
    if code == "SignatureDoesNotMatch":
        return (
            "the signature is wrong: secret_access_key does not belong to access_key_id, or a proxy changed the request"
        )
    if code in ("ExpiredToken", "InvalidToken", "TokenRefreshRequired"):
        return "the session token has expired or is not valid; renew the temporary credentials"
    if (
        code in ("RequestTimeTooSkewed", "RequestExpired")
        or "Skew" in code
        or (status == 403 and _clock_is_wrong(error))
    ):
        return "the clock of this machine differs too much from the server's; set it right (NTP)"
    region = expected_region(error)
    if 300 <= status < 400 and region is None and (place := _redirected_to(error)) is not None:
        return f"it is redirected to {place}: set endpoint_url to the S3 server itself"
    if code in _WRONG_REGION or status in (301, 307):
        should = f"it is in {region!r}" if region else "it is in another one"
        return f"region {options.region_name!r} is wrong for bucket {bucket!r}: {should}; set region_name (or endpoint_url)"
    if code == "QuotaExceeded":
        return "the quota of the bucket or user is used up; free space or raise it"
    if status == 403:
        return (
            f"access to bucket {bucket!r} is denied ({code}); the key needs s3:ListBucket, s3:GetObject, s3:PutObject, "
            "s3:DeleteObject, s3:AbortMultipartUpload and s3:ListMultipartUploadParts"
        )
    return f"refused with HTTP {status} {code}".rstrip()


def _is_denied(error: Any) -> bool:
    from botocore.exceptions import ClientError

    if not isinstance(error, ClientError) or status_of(error) != 403:
        return False
    return code_of(error) in _DENIED and not _clock_is_wrong(error)


def _clock_is_wrong(error: Any) -> bool:
    """The answer to a HEAD has no body, so no code says why it was refused: its date does."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        there = parsedate_to_datetime(headers.get("date", ""))
    except ValueError:
        return False
    if there.tzinfo is None:
        return False
    return code_of(error) in ("403", "Forbidden", "") and abs(there.timestamp() - time.time()) > _LARGEST_SKEW_SECONDS


def _redirected_to(error: Any) -> str | None:
    """Where something in front of S3 sends us, without what may be secret. None for an answer of S3 itself."""
    location = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("location")
    if not location or not code_of(error).isdecimal():
        return None
    parts = urlsplit(str(location))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.netloc else "another path"


def expected_region(error: Any) -> str | None:
    """Where the bucket is, if an answer of S3 said so."""
    response = getattr(error, "response", {})
    headers, fields = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}), response.get("Error", {})
    region = headers.get("x-amz-bucket-region") or fields.get("Region")
    if region:
        return str(region)
    found = re.search(r"expecting '([a-z0-9-]+)'", str(fields.get("Message") or ""))
    return found.group(1) if found else None
