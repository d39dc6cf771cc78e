"""The suites: which contestants do what, and what specstar has to reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.case import Scale, Suite
from benchmarks.suites.callers import callers
from benchmarks.suites.curves import growth, load
from benchmarks.suites.disk import disk
from benchmarks.suites.jobs import rabbitmq, simple
from benchmarks.suites.memory import memory
from benchmarks.suites.postgres import postgres
from benchmarks.suites.s3 import s3
from benchmarks.suites.start import start

__all__ = ["SUITES"]

SUITES: Mapping[str, Callable[[Scale], Suite]] = {
    "start": start,
    "memory": memory,
    "disk": disk,
    "postgres": postgres,
    "rabbitmq": rabbitmq,
    "simple": simple,
    "s3": s3,
    "callers": callers,
    "load": load,
    "growth": growth,
}
