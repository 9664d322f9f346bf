"""Streaming figures: a mean, a quantile, and what they forget."""

import math

from beeyard_core import history_limits
from beeyard_core.sketch import Average, QuantileSketch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import in_cases

VALUES = st.floats(0.001, 1e9)


@in_cases(50)
@given(st.lists(VALUES, min_size=1, max_size=200), st.floats(0.0, 1.0))
def test_a_quantile_is_right_to_within_two_percent(values: list[float], share: float) -> None:
    sketch = QuantileSketch()
    for value in values:
        sketch.add(value)
    exact = sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]
    assert abs(sketch.quantile(share) - exact) <= 0.017 * exact


@in_cases(50)
@given(st.lists(VALUES, min_size=1, max_size=60))
def test_an_average_of_few_is_the_plain_mean(values: list[float]) -> None:
    average = Average()
    for value in values:
        average.add(value)
    mean = math.fsum(values) / len(values)
    assert math.isclose(average.mean, mean, rel_tol=1e-9)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    assert math.isclose(average.variance, variance, rel_tol=1e-6, abs_tol=1e-6 * mean * mean)


def test_what_is_long_ago_is_forgotten() -> None:
    sketch, average = QuantileSketch(), Average()
    for value in (10.0,) * 2_000 + (1_000.0,) * 8_000:
        sketch.add(value)
        average.add(value)
    assert sketch.weight <= history_limits.SKETCH_WEIGHT_MAX
    assert sketch.n == 10_000
    assert sketch.quantile(0.01) > 900
    assert average.mean > 900


def test_nothing_measured_is_nothing() -> None:
    assert QuantileSketch().quantile(0.5) == 0.0


def test_what_is_beyond_the_bounds_counts_as_the_bound() -> None:
    sketch = QuantileSketch()
    for value in (-5.0, 0.0, math.inf):
        sketch.add(value)
    assert sketch.quantile(0.0) < 0.001
    assert sketch.quantile(1.0) > 1e12
