"""The figure of the platform policy's decisions, beside its twin in Python."""

import os
import statistics

from benchmarks.measure import Figure
from benchmarks.policy_decisions import Spent, measure

EVENTS = 1_500
P99_US_MAX = 30.0


def _rounds(workers: int, jobs: int, rounds: int) -> list[dict[str, Spent]]:
    return [measure(workers, jobs, EVENTS) for _ in range(rounds)]


def _median_us(measured: list[dict[str, Spent]], side: str, part: float) -> float:
    return statistics.median(each[side].quantile_us(part) for each in measured)


async def measure_decision(rounds: int) -> Figure:
    """Decisions a second at 1,000 workers and 10,000 waiting jobs, deltas included, over the twin's."""
    measured = _rounds(1_000, 10_000, rounds)
    ratios = [each["lua"].per_s / each["python"].per_s for each in measured]
    p99_us = _median_us(measured, "lua", 0.99)
    figure = Figure("decision_1000x10000", "decisions/s", "the same policy in Python, indexed", 0.5)
    figure.value = statistics.median(each["lua"].per_s for each in measured)
    figure.control_value = statistics.median(each["python"].per_s for each in measured)
    figure.ratio, figure.spread = statistics.median(ratios), (min(ratios), max(ratios))
    figure.met = figure.ratio >= figure.target and p99_us <= P99_US_MAX
    figure.n, figure.load_average = rounds, os.getloadavg()[0]
    figure.note = (
        f"one decision: p50 {_median_us(measured, 'lua', 0.5):.1f}, p99 {p99_us:.1f} us (at most {P99_US_MAX:g}); "
        f"twin p50 {_median_us(measured, 'python', 0.5):.1f}, p99 {_median_us(measured, 'python', 0.99):.1f} us"
    )
    return figure
