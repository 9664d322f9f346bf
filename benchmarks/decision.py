"""The figures of the platform policy's decisions: beside its twin in Python, and as queue and fleet grow."""

import os
import statistics

from benchmarks.measure import Figure
from benchmarks.policy_decisions import Spent, measure

EVENTS = 1_500
P99_US_MAX = 30.0
GROWTH_MAX = 2.0
#: What grows, as (workers, jobs): the small and the large of each.
GROWTHS = {
    "queue 100 to 10,000": ((1_000, 100), (1_000, 10_000)),
    "fleet 100 to 5,000": ((100, 10_000), (5_000, 10_000)),
}


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
        f"one decision: p50 {_median_us(measured, 'lua', 0.5):.1f}, p99 {p99_us:.1f} us of CPU time "
        f"(at most {P99_US_MAX:g}); twin p50 {_median_us(measured, 'python', 0.5):.1f}, "
        f"p99 {_median_us(measured, 'python', 0.99):.1f} us"
    )
    return figure


async def measure_growth(rounds: int) -> Figure:
    """A decision's median at a large queue or fleet over that at a small one; the worse of both."""
    figure = Figure("decision_growth", "us (p50, large)", "itself, small", GROWTH_MAX)
    figure.smaller_is_better = True
    found: dict[str, tuple[float, float, list[float]]] = {}
    for name, (small, large) in GROWTHS.items():
        pairs = [(measure(*small, EVENTS), measure(*large, EVENTS)) for _ in range(rounds)]
        p50s = [[each["lua"].quantile_us(0.5) for each in pair] for pair in pairs]
        before, after = (statistics.median(column) for column in zip(*p50s, strict=True))
        found[name] = before, after, [last / first for first, last in p50s]
    worst = max(found.values(), key=lambda each: statistics.median(each[2]))
    figure.control_value, figure.value, ratios = worst
    figure.ratio, figure.spread = statistics.median(ratios), (min(ratios), max(ratios))
    figure.met = figure.ratio <= figure.target
    figure.n, figure.load_average = rounds, os.getloadavg()[0]
    figure.note = "; ".join(
        f"{name}: p50 {before:.1f} to {after:.1f} us, x{statistics.median(ratios):.2f}"
        for name, (before, after, ratios) in found.items()
    )
    return figure
