"""The platform policy and its twin: equal decisions, in random worlds, after random changes."""

from collections import Counter

from beeyard_core.policy.world import JobRow, WorkerRow
from beeyard_core.scaling import Eviction
from beeyard_queen.policy.deltas import digest
from beeyard_queen.policy.in_process import PlatformPolicy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.policy_rows import NOW_MS, histories
from tests.support.policy_worlds import Hive

#: How often each must be decided over all histories, so that equality says something about it.
OFTEN = {"dispatch": 500, "preempt": 30, "evict": 20, "start_worker": 40, "wait": 500}
REASONS = (
    "overdue",
    "earliest deadline",
    "fair share",
    "waited long",
    "no worker can take a waiting job now",
)


def test_the_platform_policy_and_its_twin_decide_alike() -> None:
    decided: Counter[str] = Counter()
    reasons: Counter[str] = Counter()

    @settings(
        max_examples=300,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(histories(), st.sampled_from(Eviction))
    def decide_alike(history: list[tuple[object, ...]], eviction: Eviction) -> None:
        hive = Hive(eviction)
        for change in history:
            hive.change(change)
            intent = hive.policy.decide(NOW_MS)
            assert intent == hive.twin.decide(NOW_MS)
            decided[intent.action] += 1
            reasons[intent.reason] += 1
        assert hive.policy.digest() == digest(hive.world)

    decide_alike()
    assert {action: n for action, n in OFTEN.items() if decided[action] < n} == {}
    assert {reason: reasons[reason] for reason in REASONS if reasons[reason] < 40} == {}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories())
def test_what_it_decides_can_be_done_and_it_comes_to_rest(
    history: list[tuple[object, ...]],
) -> None:
    """Applying each decision and asking again ends in `wait`, and the check of decisions drops nothing."""
    hive = Hive()
    for change in history:
        hive.change(change)
    hive.run_to_rest()


def test_a_fresh_policy_waits() -> None:
    assert PlatformPolicy().decide(NOW_MS).action == "wait"


def test_a_job_that_requires_extensions_goes_where_all_of_them_are() -> None:
    hive = Hive()
    for worker_id, extensions in (("w1", ""), ("w2", "lora"), ("w3", "lora,tools")):
        hive.change(("put", WorkerRow(worker_id, "p", model_ref="m", extensions=extensions)))
    for seq, (extensions, worker_id) in enumerate(
        (("lora,tools", "w3"), ("lora", "w2"), ("vision", ""), ("", "w1"))
    ):
        job = JobRow(f"j{seq}", seq, model_ref="m", extensions=extensions)
        hive.change(("put", job))
        intent = hive.policy.decide(NOW_MS)
        assert intent == hive.twin.decide(NOW_MS)
        assert getattr(intent, "worker_id", "") == worker_id
        hive.change(("job_gone", job.job_id))
    assert hive.policy.digest() == digest(hive.world)
