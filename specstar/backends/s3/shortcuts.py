"""What the driver does anew for each request or session although the outcome is the same, or in a slow way."""

from __future__ import annotations

import json
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

__all__ = ["read_data_once", "read_times_quickly", "resolve_endpoints_once", "time_of"]

# The driver's descriptions of services, by where it was told to look for more of them.
_loaders: dict[str | None, Any] = {}


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
    used = json.dumps(rules["rules"])
    for name in list(rules["parameters"]):
        if f'"{name}"' not in used and f"{{{name}" not in used:
            rules["parameters"].pop(name, None)  # another session's thread may do the same


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
