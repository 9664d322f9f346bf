"""A deadline that cannot be met is refused at once, if anything was measured; and only then."""

from beeyard_core import history_limits, limits
from beeyard_core.effect import Accept, Effect, Refuse
from beeyard_core.event import JobSubmitted, LeaseFinished
from beeyard_core.ids import JobId, TenantId
from beeyard_core.job import Finish, Priority
from beeyard_core.quota import Quota, QuotaSettings
from beeyard_core.refusal import Refusal
from beeyard_core.state import Settings

from tests.support.apiary import Apiary
from tests.support.core_values import report_of, spec_of


def submit(apiary: Apiary, **changes: object) -> Effect:
    """Submit a job; return whether it was accepted or refused."""
    name = JobId(f"j{len(apiary.effects)}")
    effects = apiary.happen(JobSubmitted(job_id=name, spec=spec_of(**changes)))  # type: ignore[arg-type]
    return next(e for e in effects if isinstance(e, Accept | Refuse))


def finish(apiary: Apiary) -> None:
    """Let the oldest running job end, twenty tokens after 100 ms and one each 100 ms."""
    lease = min(apiary.state.leases.values(), key=lambda each: each.epoch)
    done = Finish(reason="length", prompt_tokens=10, prefill_ms=100.0, decode_ms=1_900.0)
    spoken = (lease.worker_id, lease.lease_id, lease.epoch)
    apiary.happen(LeaseFinished(*spoken, 20, done))


def measured(**settings: object) -> Apiary:
    """A worker with one slot, of whose jobs enough took two seconds each to say something."""
    apiary = Apiary(Settings(**settings))  # type: ignore[arg-type]
    apiary.attach(report_of("w1", slots_total=1))
    for _ in range(history_limits.FORECAST_MEASURED_MIN + 5):
        submit(apiary)
        apiary.advance(2_000)
        finish(apiary)
    return apiary


def test_a_deadline_that_cannot_be_met_is_refused_with_the_predicted_end() -> None:
    apiary = measured()
    refused = submit(apiary, deadline_ms=300)
    assert isinstance(refused, Refuse)
    assert (refused.refused.reason, refused.refused.field) == (
        Refusal.DEADLINE_UNMET,
        "deadline_ms",
    )
    assert refused.refused.retry_after_ms is None
    facts = {name: int(value) for name, value in refused.refused.metadata.items()}
    assert (facts["deadline_ms"], facts["predicted_start_ms"]) == (300, 0)
    assert 300 < facts["earliest_end_ms"] <= facts["predicted_end_ms"]
    assert 1_500 <= facts["predicted_end_ms"] <= 2_500
    assert not [job for job in apiary.state.jobs.values() if job.spec.deadline_ms]


def test_a_deadline_that_may_be_met_is_accepted() -> None:
    apiary = measured()
    assert isinstance(submit(apiary, deadline_ms=10_000), Accept)


def test_what_waits_and_is_more_urgent_counts_and_what_has_time_does_not() -> None:
    apiary = measured()
    for _ in range(20):
        submit(apiary)
    assert isinstance(submit(apiary, deadline_ms=20_000), Accept), "it goes before them"
    assert isinstance(submit(apiary, deadline_ms=4_000), Accept)
    for _ in range(60):
        submit(apiary, priority=Priority.INTERACTIVE)
    assert isinstance(submit(apiary, deadline_ms=4_000), Refuse)
    assert isinstance(submit(apiary, deadline_ms=4_000, priority=Priority.INTERACTIVE), Accept)


def test_where_nothing_was_measured_every_deadline_is_accepted() -> None:
    apiary = Apiary()
    apiary.attach(report_of("w1", slots_total=1))
    assert isinstance(submit(apiary, deadline_ms=1), Accept)


def test_where_nobody_serves_the_model_at_the_moment_nobody_knows() -> None:
    apiary = measured()
    apiary.detach(report_of("w1").worker_id)
    apiary.advance(limits.LEASE_TTL_MS + 1_000)
    assert isinstance(submit(apiary, deadline_ms=1), Accept)


def test_who_is_too_late_pays_nothing() -> None:
    quotas = QuotaSettings(
        by_tenant={TenantId("ann"): Quota(requests_per_second=1)}, is_enforced=True
    )
    apiary = measured(quotas=quotas)
    assert isinstance(submit(apiary, deadline_ms=1, tenant_id=TenantId("ann")), Refuse)
    assert isinstance(submit(apiary, tenant_id=TenantId("ann")), Accept)
