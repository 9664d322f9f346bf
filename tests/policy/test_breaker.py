"""When a policy has failed too often; no clock but the one handed in."""

from beeyard_core import limits
from beeyard_queen.policy.breaker import Breaker, Mishap

WINDOW = limits.POLICY_BREAKER_WINDOW_MS


def after(*mishaps: tuple[int, Mishap]) -> Breaker:
    breaker = Breaker()
    for now_ms, mishap in mishaps:
        breaker = breaker.after(mishap, now_ms)
    return breaker


def test_three_kills_in_a_minute_suspend() -> None:
    assert not after((0, Mishap.KILL), (1, Mishap.KILL)).suspended
    assert (
        after((0, Mishap.KILL), (1, Mishap.KILL), (2, Mishap.KILL)).suspended
        == "killed 3 times in 60 s"
    )


def test_five_failures_of_any_kind_suspend() -> None:
    four = [(at, Mishap.FAILURE) for at in range(4)]
    assert not after(*four).suspended
    assert after(*four, (4, Mishap.FAILURE)).suspended == "failed 5 times in 60 s"
    assert after(*four, (4, Mishap.KILL)).suspended


def test_what_is_older_than_a_minute_is_forgiven() -> None:
    spread = after((0, Mishap.KILL), (1, Mishap.KILL), (WINDOW, Mishap.KILL))
    assert not spread.suspended
    assert [at for at, _ in spread.mishaps] == [1, WINDOW]


def test_a_suspended_policy_stays_so() -> None:
    suspended = after(*((at, Mishap.KILL) for at in range(3)))
    assert suspended.after(Mishap.FAILURE, 10 * WINDOW) == suspended
