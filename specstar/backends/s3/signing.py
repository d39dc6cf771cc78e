"""Signatures over bodies whose hash is known: the driver would hash them once more, on the event loop."""

from __future__ import annotations

from typing import Any

from specstar.backends.s3.body import Body

__all__ = ["sign_known_hashes"]


def sign_known_hashes(client: Any) -> bool:
    """Have a client sign `Body.sha256` where it is set. False if its bodies are not signed as they are, or not at all.

    What is signed is what the server compares the bytes with: a wrong hash is refused.
    """
    from botocore.auth import S3SigV4Auth

    config = client.meta.config
    signer: Any = getattr(client, "_request_signer", None)
    given: Any = getattr(signer, "get_auth_instance", None)
    # A checksum of the driver's own may come after the body, which then is another one.
    if given is None or config.request_checksum_calculation != "when_required":
        return False
    if (config.s3 or {}).get("payload_signing_enabled") is False:
        return False

    class KnownHash(S3SigV4Auth):  # type: ignore[misc, unused-ignore]
        def payload(self, request: Any) -> Any:
            # Not `body`, which prepares the whole request.
            body = request.data
            known = body.sha256 if isinstance(body, Body) else None
            return known or super().payload(request)

    async def get_auth_instance(*args: Any, **kwargs: Any) -> Any:
        auth = await given(*args, **kwargs)
        if type(auth) is S3SigV4Auth:
            auth.__class__ = KnownHash
        return auth

    signer.get_auth_instance = get_auth_instance
    return True
