"""Quotas of tenants: what is let in, what is refused and until when, and what is only noted."""

from beeyard_core import limits
from beeyard_core.effect import Accept, Effect, Refuse
from beeyard_core.event import CancelRequested, JobSubmitted, LeaseFinished
from beeyard_core.ids import JobId, ModelName, TenantId
from beeyard_core.job import Finish
from beeyard_core.quota import Limit, Quota, QuotaSettings
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.state import QueenState, Settings
from beeyard_core.tenants import Tenants
from beeyard_core.work_ask import Completion, Told
from hypothesis import given
from hypothesis import strategies as st

from tests.support.apiary import Apiary
from tests.support.cases import in_cases
from tests.support.core_values import GIB, cached_of, pool_of, report_of, spec_of
from tests.support.heavy_work import HeavyWork, claim_of

ANN, BEN = TenantId("ann"), TenantId("ben")
in_many_histories = in_cases(6)


def yard(quota: Quota | None = None, *, is_enforced: bool = True, slots: int = 4) -> Apiary:
    """A fleet with two models in which ann has a quota and nobody else has."""
    by_tenant = {ANN: quota} if quota else {}
    apiary = Apiary(Settings(quotas=QuotaSettings(by_tenant=by_tenant, is_enforced=is_enforced)))
    models = (cached_of("m"), cached_of("n", required_bytes=6 * GIB))
    apiary.snapshot(pool_of(models=models))
    apiary.attach(report_of("w1", slots_total=slots))
    return apiary


def submit(apiary: Apiary, tenant_id: TenantId = ANN, **changes: object) -> Effect:
    """Submit a job of 10 prompt tokens and 20 more; return whether it was accepted or refused."""
    name = JobId(f"j{len(apiary.effects)}")
    spec = spec_of(tenant_id=tenant_id, **changes)  # type: ignore[arg-type]
    effects = apiary.happen(JobSubmitted(job_id=name, spec=spec))
    return next(e for e in effects if isinstance(e, Accept | Refuse))


def refused(effect: Effect) -> Refused:
    assert isinstance(effect, Refuse), effect
    assert effect.refused.reason is Refusal.QUOTA_EXCEEDED
    return effect.refused


def finish(apiary: Apiary, tokens: int = 5) -> None:
    """Let the oldest running job end."""
    lease = next(iter(apiary.state.leases.values()))
    done = Finish(reason="stop", prompt_tokens=10)
    spoken = (lease.worker_id, lease.lease_id, lease.epoch)
    apiary.happen(LeaseFinished(*spoken, tokens, done))


def test_a_tenant_may_have_so_many_unfinished_jobs_and_others_are_not_held_up() -> None:
    apiary = yard(Quota(concurrent_jobs=2), slots=1)
    assert isinstance(submit(apiary), Accept)
    assert isinstance(submit(apiary), Accept), "one runs, one waits"
    found = refused(submit(apiary))
    assert (
        found.message
        == "the tenant's quota of 2 concurrent_jobs is used up; 1 more would have been enough"
    )
    assert found.retry_after_ms == limits.QUOTA_RETRY_MS
    assert found.metadata == {
        "subject": "tenant:ann",
        "quota": "concurrent_jobs",
        "limit": "2",
        "used": "2",
        "missing": "1",
    }
    assert isinstance(submit(apiary, BEN), Accept)
    finish(apiary)
    assert isinstance(submit(apiary), Accept)


def test_heavy_work_counts_as_a_job() -> None:
    quotas = QuotaSettings(by_tenant={ANN: Quota(concurrent_jobs=1)}, is_enforced=True)
    work = HeavyWork(settings=Settings(quotas=quotas))
    assert isinstance(work.ask(work.submission(tenant_id=ANN)), Told)
    answer = work.ask(work.submission(tenant_id=ANN))
    assert isinstance(answer, Refused)
    assert answer.reason is Refusal.QUOTA_EXCEEDED
    assert answer.metadata["missing"] == "1", "and how many more would have been enough"
    work.restart()
    assert isinstance(work.ask(work.submission(tenant_id=ANN)), Refused), "it is still there"
    work.ask(Completion(claim_of(work.lease())))
    assert isinstance(work.ask(work.submission(tenant_id=ANN)), Told)


def test_a_repeated_request_is_charged_once() -> None:
    apiary = yard(Quota(concurrent_jobs=1))
    for _ in range(2):
        spec = spec_of(tenant_id=ANN)
        event = JobSubmitted(job_id=JobId("j"), spec=spec, request_id="r")
        assert not any(isinstance(e, Refuse) for e in apiary.happen(event))


def test_device_memory_is_counted_once_for_each_model() -> None:
    apiary = yard(Quota(vram_bytes=9 * GIB))
    assert isinstance(submit(apiary), Accept)
    assert isinstance(submit(apiary), Accept), "the same model again"
    found = refused(submit(apiary, model="n"))
    assert (found.metadata["quota"], found.metadata["used"]) == ("vram_bytes", str(10 * GIB))
    finish(apiary)
    finish(apiary)
    assert isinstance(submit(apiary, model="n"), Accept)


def test_requests_flow_at_their_rate_and_a_seconds_worth_may_come_at_once() -> None:
    apiary = yard(Quota(requests_per_second=2))
    assert [type(submit(apiary)) for _ in range(3)] == [Accept, Accept, Refuse]
    assert refused(submit(apiary)).retry_after_ms == 500
    apiary.advance(500)
    assert isinstance(submit(apiary), Accept)
    refused(submit(apiary))


def test_a_slow_rate_lets_one_request_in_at_a_time() -> None:
    apiary = yard(Quota(requests_per_second=0.5))
    assert isinstance(submit(apiary), Accept)
    assert refused(submit(apiary)).retry_after_ms == 2_000
    apiary.advance(2_000)
    assert isinstance(submit(apiary), Accept)


def test_tokens_flow_at_their_rate_and_a_debt_is_paid_first() -> None:
    apiary = yard(Quota(tokens_per_minute=60), slots=0)
    assert isinstance(submit(apiary, max_tokens=90), Accept), "100 of 60: let in, and overdrawn"
    found = refused(submit(apiary))
    assert found.metadata["quota"] == "tokens_per_minute"
    assert found.retry_after_ms == 41_000
    apiary.advance(41_000)
    assert isinstance(submit(apiary), Accept)


def test_what_a_job_did_not_use_is_given_back() -> None:
    apiary = yard(Quota(tokens_per_minute=60))
    submit(apiary, max_tokens=90)
    refused(submit(apiary))
    finish(apiary, tokens=5)
    assert apiary.state.quotas.usages[ANN].tokens_total == 15
    assert isinstance(submit(apiary), Accept)
    waiting = yard(Quota(tokens_per_minute=60), slots=0)
    submit(waiting, max_tokens=90)
    (job_id,) = waiting.state.jobs
    waiting.happen(CancelRequested(job_id))
    assert waiting.state.quotas.usages[ANN].tokens_total == 0, "it never ran"


def test_a_quota_of_nothing_is_asked_again_after_an_hour() -> None:
    apiary = yard(Quota(tokens_per_minute=0))
    assert refused(submit(apiary)).retry_after_ms == limits.QUOTA_RETRY_MS_MAX
    nobody = yard(Quota(concurrent_jobs=0))
    refused(submit(nobody))


def test_in_lab_mode_nothing_is_refused_and_what_would_have_been_is_noted() -> None:
    apiary = yard(Quota(concurrent_jobs=1, tokens_per_minute=30), is_enforced=False)
    assert [type(submit(apiary)) for _ in range(3)] == [Accept] * 3
    usage = apiary.state.quotas.usages[ANN]
    assert (usage.jobs, usage.exceeded[Limit.CONCURRENT_JOBS]) == (3, 2)


def test_whoever_has_no_quota_of_its_own_has_the_common_one() -> None:
    quotas = QuotaSettings(
        by_tenant={ANN: Quota()}, otherwise=Quota(concurrent_jobs=0), is_enforced=True
    )
    assert quotas.of(ANN).concurrent_jobs is None
    assert quotas.of(BEN).concurrent_jobs == 0


def test_jobs_of_an_earlier_queen_count() -> None:
    apiary = yard(Quota(concurrent_jobs=1), slots=0)
    submit(apiary)
    apiary.restart()
    apiary.snapshot(pool_of())
    refused(submit(apiary))
    assert apiary.state.quotas.usages[ANN].tokens_total == 30


def test_the_number_of_tenants_that_are_remembered_is_bounded() -> None:
    tenants, fleet = Tenants(), QueenState().fleet
    quotas = QuotaSettings()
    for number in range(limits.TENANTS_KEPT_MAX):
        tenants.admit_work(TenantId(f"t{number}"), quotas, fleet, 0)
    tenants.end_work(TenantId("t7"))
    tenants.admit_work(TenantId("new"), quotas, fleet, 0)
    assert TenantId("t7") not in tenants.usages
    assert len(tenants.usages) == limits.TENANTS_KEPT_MAX
    tenants.admit_work(TenantId("newer"), quotas, fleet, 0)
    assert TenantId("newer") in tenants.usages, "all others have something here"


@in_many_histories
@given(
    st.lists(
        st.tuples(
            st.sampled_from([ANN, BEN]),
            st.integers(0, 3_000),
            st.sampled_from(["m", "n"]),
            st.integers(1, 200),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_no_history_makes_an_enforced_quota_give_way(
    history: list[tuple[TenantId, int, str, int, bool]],
) -> None:
    """Unfinished jobs and memory at any moment; requests and tokens over all the time that passed."""
    quota = Quota(
        concurrent_jobs=5, vram_bytes=9 * GIB, tokens_per_minute=1_000, requests_per_second=2
    )
    apiary = yard(quota)
    began_ms, accepted, largest = apiary.now.mono_ms, 0, 0
    for tenant_id, wait_ms, model, max_tokens, ends in history:
        apiary.advance(wait_ms)
        if isinstance(submit(apiary, tenant_id, model=model, max_tokens=max_tokens), Accept):
            accepted += tenant_id == ANN
        elif tenant_id == BEN:
            raise AssertionError("ben has no quota")
        largest = max(largest, max_tokens + 10)
        if ends and apiary.state.leases:
            finish(apiary, tokens=1)
        unfinished = [
            job
            for job in apiary.state.jobs.values()
            if job.spec.tenant_id == ANN and not job.is_ended
        ]
        assert len(unfinished) <= 5
        sizes = {ModelName("m"): 4 * GIB, ModelName("n"): 6 * GIB}
        assert sum(sizes[model] for model in {job.spec.model for job in unfinished}) <= 9 * GIB
        elapsed_ms = apiary.now.mono_ms - began_ms
        assert accepted <= 2 + elapsed_ms * 2 / 1_000
        usage = apiary.state.quotas.usages.get(ANN)
        if usage is not None:
            assert usage.tokens_total <= 1_000 + elapsed_ms / 60 + largest
