"""Budgets of sessions: what is let in, what is refused, what comes back, and how long a session is remembered."""

import pytest
from beeyard_core import limits
from beeyard_core.effect import Accept, Effect, Refuse
from beeyard_core.event import CancelRequested, JobSubmitted, LeaseFinished
from beeyard_core.ids import JobId, TenantId
from beeyard_core.job import Finish
from beeyard_core.quota import Limit, Quota, QuotaSettings
from beeyard_core.refusal import Refusal
from beeyard_core.sessions import Remaining
from beeyard_core.state import Settings
from hypothesis import given
from hypothesis import strategies as st

from tests.support.apiary import Apiary
from tests.support.cases import in_cases
from tests.support.core_values import report_of, spec_of

ANN = TenantId("ann")


def yard(*, is_enforced: bool = True, slots: int = 1, **quota: int) -> Apiary:
    """A worker of one model; ann's sessions have a budget, and nobody else's."""
    quotas = QuotaSettings(by_tenant={ANN: Quota(**quota)}, is_enforced=is_enforced)
    apiary = Apiary(Settings(quotas=quotas))
    apiary.attach(report_of("w1", slots_total=slots))
    return apiary


def submit(apiary: Apiary, session_id: str = "talk", **changes: object) -> Effect:
    """Submit a job of 10 prompt tokens and 20 more; return whether it was accepted or refused."""
    given_ = {"tenant_id": ANN, "session_id": session_id, **changes}
    name = JobId(f"j{len(apiary.effects)}")
    effects = apiary.happen(JobSubmitted(job_id=name, spec=spec_of(**given_)))  # type: ignore[arg-type]
    return next(e for e in effects if isinstance(e, Accept | Refuse))


def left(apiary: Apiary, session_id: str = "talk") -> Remaining | None:
    spec = spec_of(tenant_id=ANN, session_id=session_id)
    quota = apiary.state.settings.quotas.of(ANN)
    return apiary.state.quotas.sessions.remaining(spec, quota, apiary.now.mono_ms)


def finish(apiary: Apiary, tokens: int = 5) -> None:
    lease = next(iter(apiary.state.leases.values()))
    done = Finish(reason="stop", prompt_tokens=10)
    spoken = (lease.worker_id, lease.lease_id, lease.epoch)
    apiary.happen(LeaseFinished(*spoken, tokens, done))


def test_a_session_never_uses_more_than_its_budget_and_gets_back_what_it_did_not_use() -> None:
    apiary = yard(session_tokens=70)
    assert isinstance(submit(apiary), Accept)
    assert left(apiary) == Remaining(40, None)
    assert isinstance(submit(apiary), Accept)
    refused = submit(apiary)
    assert isinstance(refused, Refuse)
    assert refused.refused.reason is Refusal.BUDGET_EXCEEDED
    assert refused.refused.message == (
        "the session has 10 of 70 tokens left and this job may use 30; 20 more would have been enough"
    )
    assert refused.refused.retry_after_ms == limits.QUOTA_RETRY_MS, "its jobs may give some back"
    assert refused.refused.metadata == {
        "subject": "session:talk",
        "quota": "session_tokens",
        "limit": "70",
        "used": "60",
        "budget_tokens_remaining": "10",
        "missing": "20",
    }
    assert isinstance(submit(apiary, prompt_tokens=4, max_tokens=6), Accept), "so it asks for less"
    finish(apiary, tokens=5)
    assert left(apiary) == Remaining(15, None)


def test_a_budget_of_cost_units_comes_back_from_jobs_that_never_began_only() -> None:
    apiary = yard(session_cost_units=5)
    submit(apiary, cost_units=3)
    waiting = submit(apiary, cost_units=2)
    assert isinstance(waiting, Accept)
    refused = submit(apiary)
    assert isinstance(refused, Refuse)
    assert refused.refused.metadata["quota"] == "session_cost_units"
    assert refused.refused.metadata["budget_cost_units_remaining"] == "0"
    assert (
        refused.refused.message
        == "the session has 0 of 5 cost units left and this job may use 1; 1 more would have been enough"
    )
    apiary.happen(CancelRequested(waiting.job_id))
    finish(apiary)
    assert left(apiary) == Remaining(None, 2)


def test_sessions_have_a_budget_each_and_jobs_without_one_have_none() -> None:
    apiary = yard(session_tokens=30)
    for session_id in ("one", "two", "", ""):
        assert isinstance(submit(apiary, session_id), Accept)
    assert isinstance(submit(apiary, "one"), Refuse)
    assert isinstance(submit(apiary, "one", tenant_id=TenantId("ben")), Accept)
    assert left(apiary, "") is None
    assert set(apiary.state.quotas.sessions.spent) == {(ANN, "one"), (ANN, "two")}


def test_a_spent_session_begins_anew_after_a_day_of_silence() -> None:
    apiary = yard(session_tokens=30)
    submit(apiary)
    finish(apiary, tokens=20)
    apiary.advance(1_000)
    refused = submit(apiary)
    assert isinstance(refused, Refuse)
    assert refused.refused.retry_after_ms == limits.SESSION_KEPT_MS - 1_000
    sessions = apiary.state.quotas.sessions
    later_ms = apiary.now.mono_ms + limits.SESSION_KEPT_MS
    quota = Quota(session_tokens=30)
    assert sessions.excess(spec_of(tenant_id=ANN, session_id="talk"), quota, later_ms) is None


def test_in_lab_mode_nothing_is_refused_and_what_would_have_been_is_noted() -> None:
    apiary = yard(session_tokens=30, is_enforced=False)
    assert [type(submit(apiary)) for _ in range(3)] == [Accept] * 3
    assert apiary.state.quotas.usages[ANN].exceeded[Limit.SESSION_TOKENS] == 2
    assert left(apiary) == Remaining(0, None)


def test_what_is_unfinished_counts_after_a_restart() -> None:
    apiary = yard(session_tokens=70)
    submit(apiary)
    submit(apiary)
    apiary.restart()
    assert left(apiary) == Remaining(10, None)


def test_what_ended_jobs_used_counts_after_a_restart() -> None:
    apiary = yard(session_tokens=100, session_cost_units=9)
    submit(apiary, cost_units=2)
    waiting = submit(apiary, cost_units=3)
    assert isinstance(waiting, Accept)
    apiary.happen(CancelRequested(waiting.job_id))
    apiary.advance(2_000)
    finish(apiary, tokens=5)
    before = left(apiary)
    assert before == Remaining(100 - 15, 9 - 2)
    apiary.restart(away_ms=60_000)
    assert left(apiary) == before
    apiary.restart(away_ms=limits.SESSION_KEPT_MS - 60_000 - 1)
    assert left(apiary) == before
    apiary.restart(away_ms=1)
    assert left(apiary) == Remaining(100, 9), "it was idle for a day"


def test_a_session_that_was_in_use_when_the_queen_went_is_not_taken_for_idle() -> None:
    apiary = yard(session_tokens=100)
    submit(apiary)
    finish(apiary, tokens=5)
    apiary.now = apiary.now.later(limits.SESSION_KEPT_MS - 1_000)
    apiary.attach(report_of("w1", slots_total=1))
    submit(apiary)
    apiary.restart(away_ms=2_000)
    assert left(apiary) == Remaining(100 - 15 - 30, None)


@in_cases(20)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 20)), max_size=25))
def test_no_restart_changes_what_is_left(moves: list[tuple[int, int]]) -> None:
    apiary = yard(session_tokens=400, session_cost_units=12, slots=2)
    for kind, value in moves:
        leases = apiary.state.leases
        if kind < 2:
            submit(apiary, ("talk", "tell")[value % 2], max_tokens=value, cost_units=value % 3)
        elif kind == 2 and leases:
            finish(apiary, tokens=value % 5)
        elif kind == 3 and apiary.state.jobs:
            apiary.happen(
                CancelRequested(sorted(apiary.state.jobs)[value % len(apiary.state.jobs)])
            )
        elif kind == 4:
            before = left(apiary), left(apiary, "tell")
            apiary.restart(away_ms=value)
            assert (left(apiary), left(apiary, "tell")) == before
            apiary.attach(report_of("w1", slots_total=2))


def test_who_is_refused_by_a_quota_pays_nothing_of_its_budget() -> None:
    apiary = yard(session_tokens=70, concurrent_jobs=1)
    submit(apiary)
    assert isinstance(submit(apiary), Refuse)
    assert left(apiary) == Remaining(40, None)


def test_the_longest_idle_sessions_are_forgotten_and_busy_ones_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "SESSIONS_KEPT_MAX", 3)
    apiary = yard(session_tokens=100, slots=1)
    for number in range(5):
        submit(apiary, f"busy{number}")
    assert len(apiary.state.quotas.sessions.spent) == 5, "all of them have unfinished jobs"
    for _ in range(4):
        finish(apiary)
    submit(apiary, "new")
    assert [session for _, session in apiary.state.quotas.sessions.spent] == [
        "busy3",
        "new",
        "busy4",
    ]


@in_cases(20)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 40), st.integers(0, 2)), max_size=30)
)
def test_no_session_uses_more_than_its_budget_in_any_history(
    history: list[tuple[str, int, int]],
) -> None:
    apiary = yard(session_tokens=120, slots=2)
    used = {"a": 0, "b": 0, "c": 0}
    for session_id, max_tokens, ends in history:
        submit(apiary, session_id, max_tokens=max_tokens)
        for lease in list(apiary.state.leases.values())[:ends]:
            spec = apiary.state.jobs[lease.job_id].spec
            used[spec.session_id] += 10 + spec.max_tokens
            spoken = (lease.worker_id, lease.lease_id, lease.epoch)
            done = Finish(reason="length", prompt_tokens=10)
            apiary.happen(LeaseFinished(*spoken, spec.max_tokens, done))
    assert max(used.values()) <= 120
