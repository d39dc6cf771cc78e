"""The examples of docs/monitoring.md give monitoring systems what there is."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from specstar import Job, SpecStar
from tests.conformance.jobs.harness import Mail, workers

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "docs" / "examples" / "monitoring"


@pytest.fixture
async def spec(postgres_database: str) -> AsyncIterator[SpecStar]:
    """One that has run a job, with its state on PostgreSQL."""
    spec = SpecStar()

    async def handle(job: Job[Mail]) -> None: ...

    mails = spec.add_job(Mail, handle, name="mails")
    postgres = {"type": "postgres", "options": {"dsn": postgres_database}}
    spec.configure(backend={"meta": postgres, "resource": postgres, "mq": {"type": "simple"}})
    async with spec:
        sent = await mails.enqueue(Mail())
        async with workers(spec):
            await mails.wait(sent.job_id, timeout=20)
        yield spec


def example(name: str) -> ModuleType:
    found = util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


async def test_prometheus_reads_all(spec: SpecStar) -> None:
    registry = CollectorRegistry()
    registry.register(example("prometheus_metrics").SpecstarCollector(spec))
    text = generate_latest(registry).decode()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["specstar_job_succeeded_total", "mails"] == 1
    assert samples["specstar_job_running", "mails"] == 0
    assert samples["specstar_job_run_times_count", "mails"] == 1
    assert samples["specstar_job_run_times_bucket", "+Inf", "mails"] == 1
    assert samples["specstar_job_run_times_bucket", "1800.0", "mails"] == 1
    assert samples["specstar_job_run_times_sum", "mails"] == samples["specstar_job_run_seconds_total", "mails"]
    assert samples["specstar_pool_limit", "postgres"] == 8
    assert samples["specstar_batch_calls_total", "postgres writes of specstar.jobs"] >= 3
    assert not [name for name, *_ in samples if name.endswith("limit_total")]


async def test_opentelemetry_reads_all(spec: SpecStar) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    example("opentelemetry_metrics").observe(spec, provider)
    data: Any = reader.get_metrics_data()
    points = {
        (metric.name, *point.attributes.values()): point.value
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for point in metric.data.data_points
    }
    assert points["specstar.jobs.succeeded", "mails"] == 1
    assert points["specstar.jobs.running", "mails"] == 0
    assert points["specstar.pools.limit", "postgres"] == 8
    assert points["specstar.batches.calls", "postgres writes of specstar.jobs"] >= 3
    provider.shutdown()


async def test_a_job_belongs_to_the_trace_of_its_sender() -> None:
    provider, spans = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    tracer = provider.get_tracer("test")
    spec = SpecStar()
    spec.configure(
        backend={"meta": {"type": "memory"}, "mq": {"type": "simple", "options": {"retry_delay_seconds": 0}}}
    )
    spec.add_job_middleware(example("opentelemetry_tracing").Tracing(provider))

    @spec.job(max_retries=1)
    async def order(job: Job[Mail]) -> None:
        if job.attempts == 1:
            raise RuntimeError("not yet")
        await ship.enqueue(job.payload)

    @spec.job
    def ship(job: Job[Mail]) -> None:
        with tracer.start_as_current_span("packing"):
            pass

    async with spec:
        with tracer.start_as_current_span("request"):
            await order.enqueue(Mail())
        await spec.run_workers(burst=True, handle_signals=False)
    done = {span.name: span for span in spans.get_finished_spans()}
    first, second = (span for span in spans.get_finished_spans() if span.name == "process order")
    assert first.status.status_code is StatusCode.ERROR
    assert "not yet" in (first.status.description or "")
    assert second.status.status_code is not StatusCode.ERROR
    for span, parent in (
        (first, "request"),
        (second, "request"),
        (done["process ship"], "process order"),
        (done["packing"], "process ship"),
    ):
        assert span.parent is not None, span.name
        assert span.parent.span_id == done[parent].context.span_id
        assert span.context.trace_id == done["request"].context.trace_id
    assert second.kind is SpanKind.CONSUMER
    assert second.attributes is not None
    assert second.attributes["specstar.job.attempts"] == 2
