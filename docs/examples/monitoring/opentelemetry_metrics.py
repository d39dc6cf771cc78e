"""The metrics of a SpecStar for OpenTelemetry: `observe(spec)` once, with a MeterProvider or after a global one was set."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter

from specstar import BatchMetrics, Histogram, JobMetrics, PoolMetrics, SpecStar

GAUGES = {"waiting", "in_use", "limit", "running"}


def observe(spec: SpecStar, provider: MeterProvider | None = None) -> None:
    meter = get_meter("specstar", meter_provider=provider)

    def reader(part: str, label: str, field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(_: CallbackOptions) -> Iterable[Observation]:
            for row in getattr(spec.metrics(), part):
                yield Observation(getattr(row, field), {label: getattr(row, label)})

        return read

    for part, label, kind in (
        ("batches", "name", BatchMetrics),
        ("pools", "backend", PoolMetrics),
        ("jobs", "queue", JobMetrics),
    ):
        for field in msgspec.structs.fields(kind):
            if field.name == label or field.type is Histogram:
                continue  # an instrument cannot be told of ranges that were counted elsewhere
            make = meter.create_observable_gauge if field.name in GAUGES else meter.create_observable_counter
            unit = "s" if field.name.endswith("seconds") else "1"
            make(f"specstar.{part}.{field.name}", callbacks=[reader(part, label, field.name)], unit=unit)
