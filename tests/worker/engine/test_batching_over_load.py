"""The planner against none, on one load of the benchmark in virtual time: what docs/batching.md says of it."""

from benchmarks.batching import RATES, TARGET_MS, WAYS, measure


def test_the_gap_between_tokens_keeps_to_the_target_and_nothing_is_lost_for_it() -> None:
    eight, fixed, planned, promised = (measure(way, RATES[4]) for way in WAYS)
    assert fixed.gap_p99_ms > 4 * TARGET_MS
    assert planned.gap_p99_ms <= 1.02 * TARGET_MS
    assert planned.tokens_per_s > 0.97 * fixed.tokens_per_s
    assert fixed.tokens_per_s > 1.3 * eight.tokens_per_s
    assert promised.tokens_per_s > planned.tokens_per_s
    assert promised.gap_p99_ms <= 1.02 * TARGET_MS
