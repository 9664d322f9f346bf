"""A host that turns stale, faulty or too busy between a decision and its placement gets nothing, until it is well."""

from collections.abc import Callable

import pytest
from beeyard_core import limits
from beeyard_core.event import ApiMeasured, JobSubmitted, PoolReported, Ticked
from beeyard_core.fleet import HostLoad, PoolReport
from beeyard_core.governor import ApiLoad
from beeyard_core.ids import JobId
from beeyard_core.job import Job, JobState
from beeyard_core.policy.apply import apply
from beeyard_core.policy.intent import Dispatch
from beeyard_core.refusal import Refusal
from beeyard_core.state import Settings
from beeyard_core.work_yard import CapacitySettings, InferenceShare

from tests.support.apiary import Apiary
from tests.support.core_values import pool_of, report_of, spec_of

IDLE_API = ApiLoad(latency_p95_ms=1.0, error_percent=0.0, calls_inflight=0)
#: What many waiting clients look like.
CROWDED_API = ApiLoad(
    latency_p95_ms=9_000.0, error_percent=90.0, calls_inflight=limits.CONCURRENT_RPCS_MAX
)


def host(*, memory_percent: float | None = 10.0, fault: str = "") -> PoolReport:
    load = HostLoad(cpu_percent=10.0, memory_percent=memory_percent)
    return pool_of(load=load, inventory_fault=fault)


class Undecided(Apiary):
    """A queen whose policy has decided and not answered yet: a test applies what it wants."""

    def decide(self, effects: list[object]) -> None:  # type: ignore[override]
        """Decide nothing."""


def waiting(share: InferenceShare) -> tuple[Undecided, Job]:
    """A worker that could take the one job that waits, as a policy was told a moment ago."""
    apiary = Undecided(settings=Settings(capacity=CapacitySettings(inference=share)))
    apiary.snapshot(host())
    apiary.attach(report_of("w1"))
    apiary.happen(ApiMeasured(IDLE_API))
    apiary.happen(Ticked())
    apiary.happen(JobSubmitted(job_id=JobId("j1"), spec=spec_of()))
    return apiary, apiary.state.jobs[JobId("j1")]


def stale(apiary: Apiary) -> None:
    apiary.now = apiary.now.later(limits.REPORT_STALE_MS + 1)
    apiary.heartbeat(report_of("w1").worker_id)


def faulty(apiary: Apiary) -> None:
    apiary.snapshot(host(fault="NVML: the driver is gone"))


def busy(apiary: Apiary) -> None:
    apiary.snapshot(host(memory_percent=99.0))


def unmeasured(apiary: Apiary) -> None:
    apiary.snapshot(host(memory_percent=None))


def silent_about_itself(apiary: Apiary) -> None:
    apiary.snapshot(pool_of(load=None))


def crowded(apiary: Apiary) -> None:
    apiary.happen(ApiMeasured(CROWDED_API))
    apiary.happen(Ticked())


def well(apiary: Apiary) -> None:
    apiary.happen(PoolReported(host()))


def outcome(apiary: Apiary, job: Job) -> Refusal | None:
    """What becomes of the decision that was made a moment ago."""
    wanted = Dispatch(job_id=job.job_id, worker_id="w1")
    refused = apply(apiary.state, wanted, apiary.now, [], label="late@1")
    assert (refused is None) is (job.state is not JobState.QUEUED)
    return None if refused is None else refused.reason


COUNTED, GATED, IGNORED = InferenceShare.COUNTED, InferenceShare.GATED, InferenceShare.IGNORED


@pytest.mark.parametrize("share", [COUNTED, GATED], ids=["counted", "gated"])
@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (stale, Refusal.POOL_UNREADY),
        (faulty, Refusal.POOL_UNREADY),
        (busy, Refusal.CAPACITY_GATED),
        (unmeasured, Refusal.CAPACITY_GATED),
        (silent_about_itself, Refusal.CAPACITY_GATED),
    ],
)
def test_what_turned_bad_after_the_decision_is_not_placed_and_recovers_without_help(
    turn: Callable[[Apiary], None], reason: Refusal, share: InferenceShare
) -> None:
    apiary, job = waiting(share)
    turn(apiary)
    # With the very report, or its absence: no snapshot period passes in which anything is placed.
    assert outcome(apiary, job) is reason
    for _ in range(limits.REPORT_INTERVAL_MS // limits.TICK_INTERVAL_MS):
        apiary.now = apiary.now.later(limits.TICK_INTERVAL_MS)
        apiary.heartbeat(report_of("w1").worker_id)
        apiary.happen(Ticked())
        assert outcome(apiary, job) is reason
    # It is well again, and no more than that: within two ticks and what a rating needs to fall.
    for _ in range(2 + limits.RATING_RELEASE_MS // limits.TICK_INTERVAL_MS):
        apiary.now = apiary.now.later(limits.TICK_INTERVAL_MS)
        well(apiary)
        apiary.happen(ApiMeasured(IDLE_API))
        apiary.heartbeat(report_of("w1").worker_id)
        apiary.happen(Ticked())
    assert outcome(apiary, job) is None


@pytest.mark.parametrize("share", InferenceShare, ids=lambda share: share.value)
def test_without_a_spike_the_decision_holds(share: InferenceShare) -> None:
    apiary, job = waiting(share)
    well(apiary)
    assert outcome(apiary, job) is None


@pytest.mark.parametrize("turn", [busy, unmeasured, silent_about_itself])
def test_where_ratings_are_for_heavy_work_alone_only_stale_reports_keep_jobs_away(
    turn: Callable[[Apiary], None],
) -> None:
    apiary, job = waiting(IGNORED)
    turn(apiary)
    assert outcome(apiary, job) is None
    apiary, job = waiting(IGNORED)
    stale(apiary)
    assert outcome(apiary, job) is Refusal.POOL_UNREADY


def test_many_calls_in_flight_hold_jobs_back_only_where_the_whole_rating_counts() -> None:
    """Those calls wait for just these jobs, so it would never end by itself."""
    for share, expected in ((COUNTED, None), (GATED, Refusal.CAPACITY_GATED)):
        apiary, job = waiting(share)
        crowded(apiary)
        assert outcome(apiary, job) is expected
