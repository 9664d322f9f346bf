"""By how much a quota was too small, or when it is enough: done in the world, it comes true, and less is not enough."""

from dataclasses import replace

from beeyard_core.effect import Accept, Effect, Refuse
from beeyard_core.event import JobSubmitted
from beeyard_core.ids import JobId, TenantId
from beeyard_core.quota import Quota, QuotaSettings
from beeyard_core.refusal import Refused
from beeyard_core.state import Settings
from hypothesis import given
from hypothesis import strategies as st

from tests.support.apiary import Apiary
from tests.support.cases import in_cases
from tests.support.core_values import GIB, cached_of, pool_of, report_of, spec_of

ANN = TenantId("ann")
QUOTAS = st.sampled_from(
    [
        Quota(concurrent_jobs=2),
        Quota(vram_bytes=5 * GIB),
        Quota(session_tokens=100),
        Quota(session_cost_units=4),
        Quota(concurrent_jobs=1, session_tokens=70),
        Quota(tokens_per_minute=90),
        Quota(requests_per_second=0.5),
        Quota(requests_per_second=0.5, tokens_per_minute=60),
    ]
)
JOBS = st.lists(st.tuples(st.sampled_from("mn"), st.integers(1, 60), st.integers(1, 3)), max_size=5)


def told_by(quota: Quota, jobs: list[tuple[str, int, int]], wait_ms: int = 0) -> Effect:
    """What the last of some jobs is told, before which so long passes."""
    settings = Settings(quotas=QuotaSettings(by_tenant={ANN: quota}, is_enforced=True))
    apiary = Apiary(settings, checks=False)
    models = (cached_of("m"), cached_of("n", required_bytes=6 * GIB))
    apiary.snapshot(pool_of(models=models))
    apiary.attach(report_of("w1"))
    effects: list[Effect] = []
    for number, (model, max_tokens, cost_units) in enumerate(jobs):
        spec = spec_of(
            model, tenant_id=ANN, session_id="s", max_tokens=max_tokens, cost_units=cost_units
        )
        if number == len(jobs) - 1:
            apiary.now = apiary.now.later(wait_ms)
        effects = apiary.happen(JobSubmitted(job_id=JobId(f"j{number}"), spec=spec))
    return next(each for each in effects if isinstance(each, Accept | Refuse))


def refused_at(quota: Quota, jobs: list[tuple[str, int, int]]) -> tuple[int, Refused] | None:
    """Return how many of some jobs it takes until one is refused, and what that one is told."""
    for count in range(1, len(jobs) + 1):
        told = told_by(quota, jobs[:count])
        if isinstance(told, Refuse):
            return count, told.refused
    return None


@in_cases(25)
@given(QUOTAS, JOBS)
def test_with_so_much_more_the_request_is_let_in_and_with_less_it_is_not(
    quota: Quota, jobs: list[tuple[str, int, int]]
) -> None:
    found = refused_at(quota, jobs)
    if found is None:
        return
    count, refused = found
    jobs = jobs[:count]
    missing, name = refused.metadata.get("missing"), refused.metadata["quota"]
    if missing is not None:
        assert f"; {missing} more would have been enough" in refused.message
        for more, expected in ((int(missing), Accept), (int(missing) - 1, Refuse)):
            larger = replace(quota, **{name: int(refused.metadata["limit"]) + more})
            assert isinstance(told_by(larger, jobs), expected)
    elif "it would be let in after" in refused.message:
        assert isinstance(told_by(quota, jobs, refused.retry_after_ms or 0), Accept)
    else:
        # Two things are in the way: without the one that is named, another is.
        assert isinstance(told_by(replace(quota, **{name: None}), jobs), Refuse)


def test_two_quotas_in_the_way_have_no_single_remedy() -> None:
    jobs = [("m", 50, 1), ("m", 50, 1)]
    told = told_by(Quota(concurrent_jobs=1, session_tokens=70), jobs)
    assert isinstance(told, Refuse)
    assert "missing" not in told.refused.metadata
    assert "enough" not in told.refused.message
    told = told_by(Quota(requests_per_second=0.5, tokens_per_minute=1), jobs)
    assert isinstance(told, Refuse)
    assert "let in" not in told.refused.message


def test_what_was_refused_for_another_reason_is_left_as_it_is() -> None:
    quotas = QuotaSettings(by_tenant={ANN: Quota(concurrent_jobs=1)}, is_enforced=True)
    apiary = Apiary(Settings(quotas=quotas))
    effects = apiary.happen(JobSubmitted(job_id=JobId("j"), spec=spec_of("unknown", tenant_id=ANN)))
    (told,) = (each for each in effects if isinstance(each, Refuse))
    assert "missing" not in told.refused.metadata
