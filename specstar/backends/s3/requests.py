"""Requests: a bound on those in flight, a deadline on each, and one retry layer."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any

from specstar.backends.s3.answers import pieces_of
from specstar.backends.s3.body import Body
from specstar.backends.s3.errors import Failure, RequestFailed, classify, endpoint_of, not_s3, translate
from specstar.backends.s3.options import S3Options
from specstar.backends.s3.patience import Patience
from specstar.backends.s3.redirects import ask_once_for_region
from specstar.backends.s3.shortcuts import send_small_bodies_at_once
from specstar.backends.s3.signing import sign_known_hashes
from specstar.backends.s3.turns import Turns
from specstar.errors import BackendUnavailable

__all__ = ["Requests"]

logger: logging.Logger = logging.getLogger("specstar")

_BIG_BODY = 1 << 20
# Answers that always name the version of an object.
_WITH_ETAG = frozenset({"get_object", "head_object", "put_object", "upload_part"})
_BACKOFF = {
    Failure.throttled: 0.4,
    Failure.unsigned: 0.4,
    Failure.unsent: 0.1,
    Failure.unanswered: 0.1,
    Failure.conflict: 0.05,
}
_BACKOFF_LIMIT = 5.0


class Requests:
    """The requests of one client of the driver: between `serve` and `stop`. Large bodies are hashed by `in_thread`."""

    def __init__(self, options: S3Options, in_thread: Callable[..., Awaitable[Any]]) -> None:
        self.turns: Turns = Turns(options.max_pool_connections)
        self.signs_known_hashes: bool = False
        self._options = options
        self._in_thread = in_thread
        self._client: Any = None

    def serve(self, client: Any) -> None:
        """Send by this client from now on."""
        self._client = client
        self.signs_known_hashes = sign_known_hashes(client)
        ask_once_for_region(client)
        send_small_bodies_at_once(client)

    def stop(self) -> Any:
        """Send no more; the client, or None. It is the caller's to close, which ends what is in flight."""
        client, self._client = self._client, None
        return client

    @property
    def client(self) -> Any:
        """The driver's client. Raises `BackendUnavailable` if there is none."""
        if self._client is None:
            raise self.closed()
        return self._client

    def closed(self) -> BackendUnavailable:
        """The error of who comes too late."""
        return BackendUnavailable(f"s3 at {endpoint_of(self._options)}: the connection is closed")

    async def call(
        self,
        operation: str,
        *,
        attempts: int | None = None,
        timeout: float | None = None,
        pieces: bool = False,
        sha256: str | None = None,
        **params: Any,
    ) -> dict[str, Any]:
        """See `S3Connection.call`."""
        method = getattr(self.client, operation)
        limit = attempts or self._options.max_attempts
        patience = Patience(timeout or self._options.operation_timeout_seconds)
        body = params.get("Body")
        if body is not None and len(body) > _BIG_BODY:
            if sha256 is None and self.signs_known_hashes:
                sha256 = (await self._in_thread(hashlib.sha256, body)).hexdigest()
        elif isinstance(body, memoryview):
            params["Body"] = bytes(body)
        attempt = 0
        while True:
            attempt += 1
            clock = patience.clock()
            try:
                async with clock:
                    answer = await self._send(method, params, pieces, sha256, patience)
            except Exception as error:
                if clock.expired():
                    raise self._too_late(operation, params, patience.seconds) from error
                if self._client is None:
                    raise self.closed() from error
                failure = classify(error)
                what = f"{operation} {params.get('Key') or params.get('Bucket', '')}"
                pause = random.uniform(0, min(_BACKOFF_LIMIT, _BACKOFF.get(failure, 0) * 2**attempt))
                if not failure.transient or attempt >= limit or pause >= patience.left:
                    bucket = str(params.get("Bucket", ""))
                    raise translate(error, failure, self._options, what=what, bucket=bucket) from error
                logger.info("s3 %s: attempt %d failed, %s; again in %.2f s", what, attempt, failure.value, pause)
            else:
                if operation in _WITH_ETAG and "ETag" not in answer:
                    raise not_s3(self._options, what=f"{operation} {params.get('Key')}")
                return answer
            finally:
                patience.over()
            await asyncio.sleep(pause)
            if self._client is None:
                raise self.closed()

    async def _send(
        self,
        method: Callable[..., Awaitable[dict[str, Any]]],
        params: dict[str, Any],
        pieces: bool,
        sha256: str | None,
        patience: Patience,
    ) -> dict[str, Any]:
        async with self.turns:
            if self._client is None:  # closed while this waited for its turn
                raise self.closed()
            body = params.get("Body")
            if body is not None and len(body) > _BIG_BODY:
                params = {**params, "Body": Body(body, sha256, patience.progress)}
            answer = await method(**params)
            stream = answer.get("Body")
            if stream is not None:
                large = pieces or answer.get("ContentLength", 0) > _BIG_BODY
                async with stream:
                    found = await pieces_of(stream, patience.progress) if large else [await stream.read()]
                answer["Body"] = found if pieces else found[0] if len(found) == 1 else b"".join(found)
            return answer

    def _too_late(self, operation: str, params: dict[str, Any], seconds: float) -> RequestFailed:
        target = params.get("Key") or params.get("Bucket", "")
        return RequestFailed(
            f"{operation} {target}: not done within {seconds:g} s (pool of {self._options.max_pool_connections} connections, "
            f"{self.turns.waiting} more requests wait); retry later, or raise operation_timeout_seconds",
            backend=f"s3 at {endpoint_of(self._options)}",
            sent=True,
        )
