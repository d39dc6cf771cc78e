"""What the driver does anew for each request or session although the outcome is the same, or in a slow way."""

from __future__ import annotations

import json
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

__all__ = ["read_data_once", "read_times_quickly", "resolve_endpoints_once", "send_small_bodies_at_once", "time_of"]

# From here on a body is worth being asked for: a server that refuses the request need not be sent it.
_ASKED_FOR = 1 << 20

# The driver's descriptions of services, by where it was told to look for more of them.
_loaders: dict[str | None, Any] = {}
# The driver's rules for endpoints that were seen to, by their ids: kept, so that no other object can have one of these.
_seen_rules: dict[int, Any] = {}


def read_data_once(session: Any) -> None:
    """Have the driver's data files read and parsed once a process instead of once a session: most of what a client costs."""
    loader = _loaders.setdefault(session.get_config_variable("data_path"), session.get_component("data_loader"))
    session.register_component("data_loader", loader)


def resolve_endpoints_once(session: Any, api_version: str | None) -> None:
    """Have the endpoint of a bucket found once, not for each key in it. Blocks: reads the driver's data.

    The driver keeps what it found by all parameters of its rules, and some, such as the key, are in no rule.
    """
    # The very object that clients of this session are made from.
    rules = session.get_component("data_loader").load_service_model(
        "s3", "endpoint-rule-set-1", api_version=api_version
    )
    if id(rules) in _seen_rules:
        return
    used = json.dumps(rules["rules"])
    for name in list(rules["parameters"]):
        if f'"{name}"' not in used and f"{{{name}" not in used:
            rules["parameters"].pop(name, None)  # another session's thread may do the same
    _seen_rules[id(rules)] = rules


def send_small_bodies_at_once(client: Any) -> None:
    """Have the driver send a small body with its request: it would wait until the server asks for it (100-continue), which
    doubles the time of a write on a slow network.
    """

    def with_its_request(params: dict[str, Any], **_: Any) -> None:
        headers = params.get("headers")
        body = params.get("body")
        if headers and "Expect" in headers and body is not None and _size_of(body) <= _ASKED_FOR:
            del headers["Expect"]

    # After the driver's own, which puts the header there.
    client.meta.events.register_last("before-call.s3", with_its_request)


def _size_of(body: Any) -> int:
    from botocore.utils import determine_content_length

    size = determine_content_length(body)
    return _ASKED_FOR + 1 if size is None else int(size)


def read_times_quickly(session: Any) -> None:
    """Have the two forms of time that S3 has read by what the standard library has for them."""
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=time_of)


def time_of(value: Any) -> datetime:
    """A time from an answer; forms that are not known go the driver's way."""
    if isinstance(value, str):
        try:
            found = parsedate_to_datetime(value) if value[3:4] == "," else datetime.fromisoformat(value)
        except ValueError:
            found = None
        if found is not None and found.tzinfo is not None:
            return found
    from botocore.utils import parse_timestamp

    time: datetime = parse_timestamp(value)
    return time
