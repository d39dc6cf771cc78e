"""The options of a job, as `@spec.job(...)` and `spec.add_job(...)` take them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypedDict

__all__ = ["JobOptions", "PlainJobOptions"]


class PlainJobOptions(TypedDict, total=False):
    """Those of a job whose result has the type that its handler returns."""

    name: str
    max_retries: int
    retry_delay: float | timedelta
    retry_backoff: float
    retry_max_delay: float | timedelta
    timeout: float | timedelta
    every: float | timedelta
    cron: str
    timezone: str
    every_payload: Any
    keep_state: bool
    priority: int
    max_priority: int
    concurrency: int
    max_payload_bytes: int
    forget_after: float | timedelta


class JobOptions(PlainJobOptions, total=False):
    """Keyword arguments of a job's declaration; all optional.

    Times are seconds, or a `timedelta`. `max_retries` and `retry_delay` default to the queue backend's. `every` makes the
    job periodic, and so does `cron`, an expression such as "0 6 * * mon-fri", by the clocks of `timezone` (an IANA name;
    "UTC" by default). Workers erase the state of jobs that finished `forget_after` ago. `keep_state=False` keeps no record of
    the jobs: faster, but without `wait`, `get`, `search` and idempotency keys.
    """

    result_type: Any
