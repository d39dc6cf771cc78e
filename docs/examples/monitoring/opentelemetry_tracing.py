"""Traces of jobs for OpenTelemetry: `spec.add_job_middleware(Tracing())`. A job belongs to the trace of whoever sent it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry.propagate import extract, inject
from opentelemetry.trace import SpanKind, TracerProvider, get_tracer
from opentelemetry.util.types import AttributeValue

from specstar import Job, JobMiddleware


class Tracing(JobMiddleware):
    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = get_tracer("specstar", tracer_provider=provider)

    def sending(self, queue: str, /) -> Mapping[str, str]:
        headers: dict[str, str] = {}
        inject(headers)
        return headers

    def running(self, job: Job[Any], /) -> AbstractContextManager[object]:
        attributes: dict[str, AttributeValue] = {
            "messaging.operation.name": "process",
            "messaging.destination.name": job.queue,
            "messaging.message.id": job.job_id,
            "specstar.job.attempts": job.attempts,
        }
        return self._tracer.start_as_current_span(
            f"process {job.queue}", context=extract(job.headers), kind=SpanKind.CONSUMER, attributes=attributes
        )
