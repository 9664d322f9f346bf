"""Figures for Prometheus, as every process keeps them: the contract's labels, each with a bound on its values.

What comes after a label's bound counts as `other`, so that no client can fill Prometheus by making up names. No label
carries the id of a job, a tenant or a worker: their number has no bound that a time series database could live with.

Two kinds of figures: those that are counted as things happen (`Figures.counter`, `Figures.histogram`), and those that
are read off the process's state now and then (`Sampled`), whose scrape never touches that state.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

from beeyard_core import limits
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

OTHER: Final = "other"
FIRST_TOKEN_BUCKETS_MS: Final = (50, 100, 150, 200, 300, 500, 750, 1_000, 1_500, 2_000, 3_000)
DECODE_BUCKETS_MS: Final = (250, 500, 1_000, 1_500, 2_000, 3_000, 4_000, 6_000, 8_000, 12_000)

#: Every label that a figure may have, and how many values of it a process tells apart, `other` among them.
LABEL_VALUES_MAX: Final[Mapping[str, int]] = {
    "engine": limits.METRIC_ENGINES_MAX,
    "engine_version": limits.METRIC_ENGINE_VERSIONS_MAX,
    "pool_id": limits.METRIC_POOLS_MAX,
    "priority": limits.METRIC_PRIORITIES_MAX,
    "reason": limits.METRIC_REASONS_MAX,
    "model_id": limits.METRIC_MODELS_MAX,
    "policy": limits.METRIC_POLICIES_MAX,
    "device": limits.METRIC_DEVICES_MAX,
    "action": limits.METRIC_WORDS_MAX,
    "outcome": limits.METRIC_WORDS_MAX,
    "state": limits.METRIC_WORDS_MAX,
    "pinned": 2,
    "fallback": 2,
    "name": limits.POLICY_METRICS_MAX,
}

MetricT = TypeVar("MetricT", Counter, Histogram)


class LabelValues:
    """The values that one label has had, up to a bound."""

    def __init__(self, most: int) -> None:
        """Begin with none; `other` counts as one of `most`."""
        self._most = most - 1
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        """Return the value, or `other` when the bound is reached."""
        if value not in self._seen:
            if len(self._seen) >= self._most and value != OTHER:
                return OTHER
            self._seen.add(value)
        return value


class Bounded(Generic[MetricT]):
    """A family of figures of which each label has a bound."""

    def __init__(self, metric: MetricT, bounds: Sequence[LabelValues]) -> None:
        """Bound the labels of `metric`, in the order in which it declares them."""
        self._metric: MetricT = metric
        self._bounds = bounds
        #: Looking a figure up in the library costs more than counting does.
        self._known: dict[tuple[str, ...], MetricT] = {}

    def of(self, *values: str) -> MetricT:
        """Return the figure of these labels, one value for each."""
        known = self._known.get(values)
        if known is not None:
            return known
        bounded = tuple(bound(value) for bound, value in zip(self._bounds, values, strict=True))
        found: MetricT = self._metric.labels(*bounded) if values else self._metric
        if bounded == values:  # made-up values, of which there is no end, are looked up each time
            self._known[values] = found
        return found


class Figures:
    """All figures of one process."""

    def __init__(self) -> None:
        """Begin without any."""
        # When a counter began, the process tells; a second series for each would only cost.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the one that has no types
        self.registry = CollectorRegistry()
        self._bounds: dict[str, LabelValues] = {}

    def bound(self, label: str) -> LabelValues:
        """Return what bounds a label, the same for every figure of the process.

        Raises:
            KeyError: The contract has no such label.
        """
        if label not in self._bounds:
            self._bounds[label] = LabelValues(LABEL_VALUES_MAX[label])
        return self._bounds[label]

    def counter(self, name: str, text: str, *labels: str) -> Bounded[Counter]:
        """Make a counter; `name` without the `_total` that its series end in."""
        bounds = [self.bound(label) for label in labels]
        return Bounded(Counter(name, text, labels, registry=self.registry), bounds)

    def histogram(
        self, name: str, text: str, *labels: str, buckets: Sequence[float]
    ) -> Bounded[Histogram]:
        """Make a histogram with these upper bounds, in the unit that its name ends in."""
        bounds = [self.bound(label) for label in labels]
        metric = Histogram(name, text, labels, buckets=buckets, registry=self.registry)
        return Bounded(metric, bounds)

    def exposition(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


@dataclass(frozen=True, slots=True)
class Family:
    """A figure that is read off the state: what it is called and which labels it has."""

    name: str
    text: str
    labels: tuple[str, ...] = ()
    kind: Literal["gauge", "counter"] = "gauge"


#: What was read of one family: a value for each combination of its labels.
Readings = Mapping[Family, Iterable[tuple[tuple[str, ...], float]]]


class Sampled(Collector):
    """Figures that their owner reads off its state once in a while, and a scrape finds as they were then.

    A scrape runs on a thread of its own. It gets the last sample, which nobody changes, and so never sees a state that
    is half changed.
    """

    def __init__(self, figures: Figures) -> None:
        """Begin with no sample; a scrape finds nothing before the first one."""
        self._figures = figures
        self._metrics: tuple[Metric, ...] = ()
        figures.registry.register(self)

    def replace(self, readings: Readings) -> None:
        """Take a sample in place of the last one. Values whose labels fell together as `other` are added up."""
        self._metrics = tuple(
            # In the order of their names, so that two scrapes can be compared line by line.
            self._family(family, readings[family])
            for family in sorted(readings, key=lambda each: each.name)
        )

    def collect(self) -> Iterator[Metric]:
        """Yield the last sample."""
        yield from self._metrics

    def _family(self, family: Family, values: Iterable[tuple[tuple[str, ...], float]]) -> Metric:
        bounds = [self._figures.bound(label) for label in family.labels]
        sums: dict[tuple[str, ...], float] = {}
        for labels, value in values:
            key = tuple(bound(label) for bound, label in zip(bounds, labels, strict=True))
            if key in sums or len(sums) < limits.METRIC_SERIES_MAX:
                sums[key] = sums.get(key, 0.0) + value
        of_kind = GaugeMetricFamily if family.kind == "gauge" else CounterMetricFamily
        made = of_kind(family.name, family.text, labels=family.labels)
        for key, value in sums.items():
            made.add_metric(key, value)
        return made
