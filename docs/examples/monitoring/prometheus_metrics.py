"""The metrics of a SpecStar for Prometheus: `REGISTRY.register(SpecstarCollector(spec))`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from specstar import Histogram, SpecStar

GAUGES = {"waiting", "in_use", "limit", "running"}


class SpecstarCollector(Collector):
    def __init__(self, spec: SpecStar) -> None:
        self.spec = spec

    def collect(self) -> Iterator[Metric]:
        metrics = self.spec.metrics()
        for part, label, rows in (
            ("batch", "name", metrics.batches),
            ("pool", "backend", metrics.pools),
            ("job", "queue", metrics.jobs),
        ):
            families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
            histograms: dict[str, HistogramMetricFamily] = {}
            for row in rows:
                values = msgspec.structs.asdict(row)
                name = values.pop(label)
                for field, value in values.items():
                    if isinstance(value, Histogram):
                        if field not in histograms:
                            histograms[field] = HistogramMetricFamily(
                                f"specstar_{part}_{field}", f"See specstar: {field}, in seconds", labels=[label]
                            )
                        histograms[field].add_metric([name], buckets(value), value.sum)
                        continue
                    if field not in families:
                        family = GaugeMetricFamily if field in GAUGES else CounterMetricFamily
                        families[field] = family(f"specstar_{part}_{field}", f"See specstar: {field}", labels=[label])
                    families[field].add_metric([name], value)
            yield from families.values()
            yield from histograms.values()


def buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(str, histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
