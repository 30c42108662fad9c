"""What roles count, as plain numbers that are turned into Prometheus' terms when somebody asks."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

# Seconds: from an answer out of memory to one that waited for an origin.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Timings:
    """How often something took how many seconds."""

    def __init__(self, bounds: Sequence[float] = BOUNDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds


Values = Mapping[tuple[str, ...], float | Timings]


@dataclass(frozen=True)
class Metric:
    """A family: its values by the values of its `labels`; a counter's name without `_total`."""

    kind: str
    name: str
    text: str
    values: Values
    labels: tuple[str, ...] = ()


def counter(name: str, text: str, value: float) -> Metric:
    """Something that only grows while the process lives."""
    return Metric("counter", name, text, {(): value})


def counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """The same for each value of a label, of which there are few."""
    return Metric("counter", name, text, {(key,): n for key, n in values.items()}, (label,))


def gauge(name: str, text: str, value: float) -> Metric:
    """Something that is so now."""
    return Metric("gauge", name, text, {(): value})


def gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    """The same for each value of a label, of which there are few."""
    return Metric("gauge", name, text, {(key,): n for key, n in values.items()}, (label,))


def families(metrics: Iterable[Metric]) -> Iterable[Family]:
    """Prometheus' families, those of one name from several roles together."""
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
    made: dict[str, Family] = {}
    for metric in metrics:
        kind = HistogramMetricFamily if metric.kind == "histogram" else kinds[metric.kind]
        family = made.get(metric.name)
        if family is None:
            family = made[metric.name] = kind(metric.name, metric.text, labels=metric.labels)
        for labels, value in metric.values.items():
            if isinstance(value, Timings):
                assert isinstance(family, HistogramMetricFamily)
                family.add_metric(labels, _buckets(value), value.sum)
            else:
                assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
                family.add_metric(labels, value)
    return made.values()


def _buckets(timings: Timings) -> Sequence[tuple[str, float]]:
    total, buckets = 0, []
    for bound, count in zip((*timings.bounds, "+Inf"), timings.counts, strict=True):
        total += count
        buckets.append((str(bound), float(total)))
    return buckets
