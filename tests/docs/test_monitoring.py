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
