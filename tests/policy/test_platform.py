"""The platform policy and its twin: equal decisions, in random worlds, after random changes."""

from beeyard_queen.policy.deltas import digest
from beeyard_queen.policy.in_process import PlatformPolicy
from hypothesis import given, settings

from tests.support.policy_worlds import NOW_MS, Hive, histories


@settings(max_examples=300, deadline=None)
@given(histories())
def test_the_platform_policy_and_its_twin_decide_alike(history: list[tuple[object, ...]]) -> None:
    hive = Hive()
    for change in history:
        hive.change(change)
        assert hive.policy.decide(NOW_MS) == hive.twin.decide(NOW_MS)
    assert hive.policy.digest() == digest(hive.world)


@settings(max_examples=60, deadline=None)
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
