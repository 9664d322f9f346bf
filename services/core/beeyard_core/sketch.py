"""Streaming figures of bounded size: a mean with its spread, and quantiles.

Both forget: what was measured long ago counts less and less, so that a change of the load or of the machines shows. A
quantile is kept in buckets whose width grows with the value (the idea of DDSketch, Masson et al., 2019): whatever the
range, a quantile is right to within 1.6 %. The buckets come from `frexp`, which is exact, so that the same values give
the same figures on any machine; a logarithm may differ in its last digit.
"""

import math
from dataclasses import dataclass, field
from typing import Final

from beeyard_core import history_limits

#: Buckets between a power of two and the next.
_PARTS: Final = 32
#: The newest measurement never counts for less than this.
_WEIGHT_MIN: Final = 1 / 64
#: A bucket with less weight than this has been forgotten.
_WEIGHT_FORGOTTEN: Final = 1 / 8


@dataclass(slots=True)
class Average:
    """A mean and a variance, plain at first and exponentially weighted later on."""

    mean: float = 0.0
    variance: float = 0.0
    n: int = 0

    def add(self, value: float) -> None:
        """Take in one measurement."""
        self.n += 1
        weight = max(1 / self.n, _WEIGHT_MIN)
        away = value - self.mean
        self.mean += weight * away
        self.variance = (1 - weight) * (self.variance + weight * away * away)


@dataclass(slots=True)
class QuantileSketch:
    """The distribution of a figure that is not negative.

    Attributes:
        weight: Measurements that still count; halved now and then, each time with all buckets.
        n: Measurements ever taken in.
        weight_max: Weight from which on it forgets; infinite: it never does.
    """

    weight: float = 0.0
    n: int = 0
    weight_max: float = history_limits.SKETCH_WEIGHT_MAX
    _buckets: dict[int, float] = field(default_factory=dict)

    def add(self, value: float) -> None:
        """Take in one measurement; what is beyond the bounds counts as the bound."""
        bounded = min(max(value, history_limits.SKETCH_VALUE_MIN), history_limits.SKETCH_VALUE_MAX)
        mantissa, exponent = math.frexp(bounded)
        bucket = exponent * _PARTS + int((mantissa - 0.5) * 2 * _PARTS)
        self._buckets[bucket] = self._buckets.get(bucket, 0.0) + 1.0
        self.n += 1
        self.weight += 1.0
        if self.weight > self.weight_max:
            self._forget_half()

    def _forget_half(self) -> None:
        halved = {bucket: weight / 2 for bucket, weight in self._buckets.items()}
        self._buckets = {b: w for b, w in halved.items() if w >= _WEIGHT_FORGOTTEN}
        self.weight = sum(self._buckets.values())

    def quantile(self, share: float) -> float:
        """Return the value that this share of the measurements does not exceed; 0 if there are none."""
        wanted, seen = share * self.weight, 0.0
        found = 0.0
        for bucket in sorted(self._buckets):
            found = _middle_of(bucket)
            seen += self._buckets[bucket]
            if seen >= wanted:
                break
        return found


@dataclass(slots=True)
class Tally:
    """A figure of something that is over: all of it counts alike, and nothing is forgotten."""

    sum: float = 0.0
    sketch: QuantileSketch = field(default_factory=lambda: QuantileSketch(weight_max=math.inf))

    @property
    def n(self) -> int:
        """How many measurements there are."""
        return self.sketch.n

    @property
    def mean(self) -> float:
        """Their mean; 0 if there are none."""
        return self.sum / self.n if self.n else 0.0

    def add(self, value: float) -> None:
        """Take in one measurement."""
        self.sum += value
        self.sketch.add(value)

    def quantile(self, share: float) -> float:
        """Return the value that this share of the measurements does not exceed; 0 if there are none."""
        return self.sketch.quantile(share)


def _middle_of(bucket: int) -> float:
    exponent, part = divmod(bucket, _PARTS)
    return math.ldexp(0.5 + (part + 0.5) / (2 * _PARTS), exponent)
