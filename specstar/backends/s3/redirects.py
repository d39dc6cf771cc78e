"""Answers that send the driver elsewhere: what it is to ask for is here, or the configuration is wrong."""

from __future__ import annotations

from functools import partial
from typing import Any

__all__ = ["ask_once_for_region", "follow_none"]


def follow_none(session: Any) -> None:
    """Have the driver's HTTP client report redirects instead of following them.

    It would send the bytes, and all but the signature, to wherever an answer says, and take the answer from there, such as
    a page for logging in, for the bucket's.
    """
    object.__setattr__(session, "_request", partial(session._request, allow_redirects=False))


def ask_once_for_region(client: Any) -> None:
    """Have the driver ask once where a bucket is that is said to be elsewhere.

    It does so by a request of its own, and would ask again and again about that one's answer, if that names no region either.
    """

    def is_the_last(context: dict[str, Any], **_: Any) -> None:
        context.setdefault("s3_redirect", {})["redirected"] = True

    client.meta.events.register("before-call.s3.HeadBucket", is_the_last)
