"""A host that turns stale, faulty or too busy between a decision and its placement gets nothing, until it is well."""

from collections.abc import Callable

import pytest
from beeyard_core import limits
from beeyard_core.event import ApiMeasured, JobSubmitted, PoolReported, Ticked
from beeyard_core.fleet import HostLoad, PoolReport
from beeyard_core.governor import ApiLoad
from beeyard_core.ids import JobId
from beeyard_core.inference_gate import close_all
from beeyard_core.job import Job, JobState
from beeyard_core.policy.apply import apply
from beeyard_core.policy.intent import Dispatch
from beeyard_core.refusal import Refusal
from beeyard_core.state import Settings
from beeyard_core.work_yard import CapacitySettings, InferenceShare

from tests.support.apiary import Apiary
from tests.support.core_values import pool_of, report_of, spec_of

IDLE_API = ApiLoad(latency_p95_ms=1.0, error_percent=0.0, calls_inflight=0)
GATED = Settings(capacity=CapacitySettings(inference=InferenceShare.GATED))


def host(*, memory_percent: float = 10.0, fault: str = "") -> PoolReport:
    load = HostLoad(cpu_percent=10.0, memory_percent=memory_percent)
    return pool_of(load=load, inventory_fault=fault)


class Undecided(Apiary):
    """A queen whose policy has decided and not answered yet: a test applies what it wants."""

    def decide(self, effects: list[object]) -> None:  # type: ignore[override]
        """Decide nothing."""


def waiting() -> tuple[Undecided, Job]:
    """A worker that could take the one job that waits, as a policy was told a moment ago."""
    apiary = Undecided(settings=GATED)
    close_all(apiary.state)
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


def well(apiary: Apiary) -> None:
    apiary.happen(PoolReported(host()))


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (stale, Refusal.POOL_UNREADY),
        (faulty, Refusal.POOL_UNREADY),
        (busy, Refusal.CAPACITY_GATED),
    ],
)
def test_what_turned_bad_after_the_decision_is_not_placed(
    turn: Callable[[Apiary], None], reason: Refusal
) -> None:
    apiary, job = waiting()
    wanted = Dispatch(job_id=job.job_id, worker_id="w1")
    turn(apiary)
    refused = apply(apiary.state, wanted, apiary.now, [], label="late@1")
    assert refused is not None
    assert refused.reason is reason
    assert job.state is JobState.QUEUED
    # It is well again, and no more than that: within two ticks and what a rating needs to fall.
    for _ in range(2 + limits.RATING_RELEASE_MS // limits.TICK_INTERVAL_MS):
        apiary.now = apiary.now.later(limits.TICK_INTERVAL_MS)
        well(apiary)
        apiary.happen(ApiMeasured(IDLE_API))
        apiary.heartbeat(report_of("w1").worker_id)
        apiary.happen(Ticked())
    assert apply(apiary.state, wanted, apiary.now, [], label="late@1") is None


def test_without_a_spike_the_decision_holds() -> None:
    apiary, job = waiting()
    well(apiary)
    wanted = Dispatch(job_id=job.job_id, worker_id="w1")
    assert apply(apiary.state, wanted, apiary.now, [], label="late@1") is None
