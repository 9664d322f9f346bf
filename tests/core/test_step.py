"""Corners of the core that make no story: bounds that take thousands to reach, and messages that cross."""

from dataclasses import replace

import pytest
from beeyard_core import limits
from beeyard_core.dispatch import enqueue
from beeyard_core.effect import (
    Accept,
    AnswerCall,
    Effect,
    ForgetJob,
    Offer,
    Refuse,
    RefuseWorker,
    RemoveWorker,
    SaveJob,
    SaveJobSoon,
    SendDesired,
)
from beeyard_core.event import (
    CancelRequested,
    FirstTokenArrived,
    JobSubmitted,
    LeaseClaim,
    LeaseStopped,
    OfferAccepted,
    OfferRefused,
    PoolReported,
    Ticked,
    WorkerAttached,
    WorkerDetached,
    WorkerReported,
    WorkerStartRequested,
    WorkerStopRequested,
)
from beeyard_core.fleet import Fleet, ProcessReport, WorkerState
from beeyard_core.forecast import Forecast
from beeyard_core.ids import Epoch, JobId, LeaseId, ModelName, PoolId, WorkerId, lease_id_of
from beeyard_core.instant import Instant
from beeyard_core.job import Finish, JobState, timings_of
from beeyard_core.policy.projection import Projection
from beeyard_core.policy.schedule import is_due, schedule
from beeyard_core.policy.twin import Twin
from beeyard_core.refusal import Refusal
from beeyard_core.restore import restore
from beeyard_core.state import QueenState, Settings, TimerKind
from beeyard_core.step import conflict, step

from tests.support.apiary import Apiary
from tests.support.core_values import (
    START,
    CrowdedQueue,
    cached_of,
    check_invariants,
    fleet_of,
    job_of,
    pool_of,
    report_of,
    spec_of,
)
from tests.support.core_yard import kept

W1 = WorkerId("w1")
M = ModelName("m")


def submitted(job_id: str, **changes: object) -> JobSubmitted:
    return JobSubmitted(job_id=JobId(job_id), spec=spec_of(**changes))  # type: ignore[arg-type]


# --- Bounds ---


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    state = QueenState(queue=CrowdedQueue(), fleet=fleet_of(report_of("w1", slots_total=2)))
    state.forecast.observe(M, 1_000.0)
    (refused,) = step(state, submitted("j1"), START)
    assert isinstance(refused, Refuse)
    assert refused.refused.reason is Refusal.QUEUE_FULL_REJECT
    assert refused.refused.metadata == {
        "policy_label": "reject",
        "queue_position": str(limits.QUEUE_DEPTH_MAX),
        # All that wait and the job itself, a second each, on two slots.
        "queue_eta_ms": str((limits.QUEUE_DEPTH_MAX + 1) * 1_000 // 2),
    }
    # A tenth of the queue at one second each over two slots.
    assert refused.refused.retry_after_ms == (limits.QUEUE_DEPTH_MAX // 10 + 1) * 500
    assert state.jobs == {}


def test_one_round_decides_a_bounded_number_and_the_next_goes_on() -> None:
    state = QueenState(fleet=fleet_of(report_of("w1", slots_total=2_000, kv_tokens_total=10**6)))
    for number in range(limits.DECISIONS_PER_ROUND_MAX + 3):
        job = job_of(f"j{number}", number)
        state.jobs[job.job_id] = job
        enqueue(state, job)
    twin, projection = Twin(), Projection()
    offers = []
    for _ in range(2):
        effects: list[Effect] = []
        schedule(state, projection, twin, START, effects)
        offers.append(sum(isinstance(effect, Offer) for effect in effects))
        # Nothing has to happen for the next round to come.
        assert is_due(state, START) == (len(offers) == 1)
    assert offers == [limits.DECISIONS_PER_ROUND_MAX, 3]


@pytest.mark.parametrize("on_demand", [True, False])
def test_a_worker_is_started_on_demand_unless_that_is_left_to_the_policy(on_demand: bool) -> None:
    settings = Settings(start_on_demand=on_demand, scaling=kept("elsewhere", 1))
    state = QueenState(settings=settings)
    step(state, PoolReported(pool_of("p1")), START)
    step(state, submitted("j1"), START)
    # No policy is asked here; the tick alone starts it, or nobody does.
    told = [each for each in step(state, Ticked(), START) if isinstance(each, SendDesired)]
    assert bool(told) == on_demand


def test_the_oldest_ended_jobs_are_forgotten_with_their_request_ids() -> None:
    state = QueenState(fleet=fleet_of(report_of("w1")))
    for number in range(limits.ENDED_JOBS_KEPT_MAX):
        old = job_of(f"old-{number}", number)
        old.state, old.ended_at = JobState.COMPLETED, START
        state.jobs[old.job_id] = old
        state.ended.append(old.job_id)
    oldest = state.jobs[JobId("old-0")]
    oldest.request_id = "r"
    state.requests[oldest.spec.tenant_id, "r"] = oldest.job_id
    later = START.later(limits.ENDED_JOB_KEPT_MS_MIN + 1)
    for number in range(2):
        job = job_of(f"j{number}", 10**6 + number)
        state.jobs[job.job_id] = job
        enqueue(state, job)
        effects = step(state, CancelRequested(job.job_id), later)
        assert ForgetJob(JobId(f"old-{number}")) in effects
    assert len(state.ended) == limits.ENDED_JOBS_KEPT_MAX
    assert state.requests == {}
    check_invariants(state)


def test_no_job_is_forgotten_before_its_end_is_saved_however_many_end_at_once() -> None:
    state = QueenState()
    for number in range(limits.ENDED_JOBS_KEPT_MAX + 5):
        job = job_of(f"j{number}", number, spec_of(deadline_ms=1_000))
        job.deadline_at_ms = START.mono_ms + 1_000
        state.jobs[job.job_id] = job
        enqueue(state, job)
        state.set_timer(job.deadline_at_ms, TimerKind.DEADLINE, job.job_id)
    effects = step(state, Ticked(), START.later(1_001))
    saved = [effect.job_id for effect in effects if isinstance(effect, SaveJob)]
    assert len(saved) == limits.ENDED_JOBS_KEPT_MAX + 5
    # The shell cuts the rows from the state, after the step.
    assert all(job_id in state.jobs for job_id in saved)


def test_no_more_workers_than_the_limit_are_let_in() -> None:
    state = QueenState(fleet=Fleet())
    anybody = fleet_of(report_of("w1")).workers[W1]
    state.fleet.workers = dict.fromkeys(
        (WorkerId(f"w{n}") for n in range(limits.WORKERS_MAX)), anybody
    )
    (refused,) = step(state, WorkerAttached(session=1, report=report_of("one-more")), START)
    assert isinstance(refused, RefuseWorker)
    assert refused.refused.reason is Refusal.CAPACITY_GATED
    assert refused.refused.reason.is_transient


def test_no_more_hosts_than_the_limit_are_taken_in() -> None:
    state = QueenState()
    known = fleet_of(pools=(pool_of("p0"),)).pools[PoolId("p0")]
    state.fleet.pools = dict.fromkeys((PoolId(f"p{n}") for n in range(limits.POOLS_MAX)), known)
    assert step(state, PoolReported(pool_of("one-more")), START) == []
    assert PoolId("one-more") not in state.fleet.pools
    # One that is known may go on reporting.
    step(state, PoolReported(pool_of("p7", incarnation="x")), START)
    assert state.fleet.pools[PoolId("p7")].report.incarnation == "x"


def test_only_the_youngest_operator_requests_are_remembered() -> None:
    state = QueenState(fleet=fleet_of(pools=(pool_of(models=(cached_of(required_bytes=0),)),)))
    for number in range(limits.OPERATOR_REQUESTS_KEPT_MAX + 1):
        request = WorkerStartRequested(call_id=number, model=M, request_id=f"r{number}")
        step(state, request, START)
        # Walking thousands of wishes is not what this test is about.
        state.wishes.clear()
    assert len(state.answered) == limits.OPERATOR_REQUESTS_KEPT_MAX
    assert "r0" not in state.answered


def test_only_so_many_drained_workers_are_remembered_as_there_may_be() -> None:
    state = QueenState(fleet=fleet_of(report_of("w1")))
    state.drained = dict.fromkeys((WorkerId(f"gone-{n}") for n in range(limits.WORKERS_MAX)), "")
    step(state, WorkerStopRequested(call_id=1, worker_id=W1, keep=True), START)
    assert len(state.drained) == limits.WORKERS_MAX
    assert WorkerId("gone-0") not in state.drained
    assert W1 in state.drained


# --- Messages that cross ---


@pytest.fixture
def apiary() -> Apiary:
    return Apiary()


def test_what_a_worker_says_on_an_old_stream_is_nothing(apiary: Apiary) -> None:
    apiary.attach(report_of("w1"))
    apiary.attach(report_of("w1", slots_total=2))
    assert apiary.happen(WorkerDetached(W1, 1)) == []
    assert apiary.happen(WorkerReported(session=1, report=report_of("w1", slots_total=9))) == []
    assert apiary.state.fleet.workers[W1].report.slots_total == 2
    assert apiary.happen(WorkerDetached(WorkerId("w9"), 1)) == []


def test_a_worker_that_leaves_without_leases_is_forgotten_at_once(apiary: Apiary) -> None:
    apiary.attach(report_of("w1"))
    apiary.detach(W1)
    assert apiary.state.fleet.workers == {}
    # Its timer is still armed, and finds nobody.
    assert apiary.advance(limits.LEASE_TTL_MS) == []


def test_a_claimed_offer_counts_as_accepted(apiary: Apiary) -> None:
    apiary.attach(report_of("w1"))
    apiary.happen(submitted("j1"))
    lease_id = lease_id_of(Epoch(1))
    claim = LeaseClaim(lease_id=lease_id, epoch=Epoch(1), next_index=0)
    apiary.attach(report_of("w1"), (claim,))
    assert apiary.state.leases[lease_id].state.value == "active"


def test_a_revoked_lease_that_is_claimed_is_not_given_back(apiary: Apiary) -> None:
    apiary.attach(report_of("w1", slots_total=1))
    apiary.happen(submitted("j1"))
    apiary.happen(CancelRequested(JobId("j1")))
    claim = LeaseClaim(lease_id=lease_id_of(Epoch(1)), epoch=Epoch(1), next_index=0)
    apiary.attach(report_of("w1", slots_total=1), (claim,))
    assert apiary.state.leases == {}
    assert apiary.state.fleet.workers[W1].slots_free == 1


def spoken(lease: int = 1) -> tuple[WorkerId, LeaseId, Epoch]:
    return W1, lease_id_of(Epoch(lease)), Epoch(lease)


def test_a_refusal_that_crosses_a_cancellation_frees_the_slot_and_nothing_else(
    apiary: Apiary,
) -> None:
    apiary.attach(report_of("w1"))
    apiary.happen(submitted("j1"))
    apiary.happen(CancelRequested(JobId("j1")))
    apiary.happen(OfferRefused(*spoken(), Refusal.WORKER_BUSY))
    assert apiary.state.jobs[JobId("j1")].state is JobState.CANCELLED
    assert apiary.state.leases == {}


def test_a_stop_that_was_ordered_is_no_broken_attempt(apiary: Apiary) -> None:
    apiary.attach(report_of("w1"))
    apiary.happen(submitted("j1"))
    apiary.happen(CancelRequested(JobId("j1")))
    apiary.happen(LeaseStopped(*spoken()))
    assert apiary.state.jobs[JobId("j1")].state is JobState.CANCELLED


def test_saying_the_same_twice_changes_nothing(apiary: Apiary) -> None:
    apiary.attach(report_of("w1"))
    apiary.happen(submitted("j1"))
    apiary.happen(OfferAccepted(*spoken()))
    assert apiary.happen(OfferAccepted(*spoken())) == []
    assert apiary.happen(FirstTokenArrived(*spoken())) == [SaveJobSoon(JobId("j1"))]
    apiary.now = apiary.now.later(5)
    assert apiary.happen(FirstTokenArrived(*spoken())) == []
    assert apiary.state.jobs[JobId("j1")].first_token_at == START


def test_the_first_token_is_that_of_the_first_attempt_that_gave_one(apiary: Apiary) -> None:
    apiary.attach(report_of("w1"))
    apiary.happen(submitted("j1"))
    apiary.happen(FirstTokenArrived(*spoken()))
    apiary.now = apiary.now.later(700)
    apiary.happen(LeaseStopped(*spoken()))
    apiary.happen(FirstTokenArrived(*spoken(2)))
    assert apiary.state.jobs[JobId("j1")].first_token_at == START


def test_a_dead_process_that_was_never_attached_changes_nothing(apiary: Apiary) -> None:
    gone = ProcessReport(worker_id=W1, model=M, state=WorkerState.FAILED, exited=True)
    assert apiary.snapshot(pool_of(processes=(gone,))) == []


def test_a_worker_that_silently_lost_its_stream_is_removed_once(apiary: Apiary) -> None:
    apiary.attach(report_of("w1"))
    apiary.happen(submitted("j1"))
    apiary.links[W1].is_mute = True
    told = [effect for _, effect in apiary.advance(30_000)]
    assert [e for e in told if isinstance(e, RemoveWorker)] == [RemoveWorker(W1, 1)]


def test_a_slot_of_a_mute_worker_whose_job_was_cancelled_comes_back(apiary: Apiary) -> None:
    apiary.attach(report_of("w1"))
    apiary.happen(submitted("j1"))
    apiary.happen(CancelRequested(JobId("j1")))
    apiary.links[W1].is_mute = True
    apiary.advance(limits.LEASE_TTL_MS)
    assert apiary.state.leases == {}


def test_the_first_snapshot_of_a_stream_is_answered_even_if_nothing_is_wanted(
    apiary: Apiary,
) -> None:
    assert apiary.snapshot(pool_of("p1"), is_first=True) == [SendDesired(PoolId("p1"), ())]
    assert apiary.snapshot(pool_of("p1")) == []


def test_an_operators_answer_names_the_pool_also_when_the_worker_is_gone() -> None:
    apiary = Apiary()
    apiary.snapshot(pool_of("p1"))
    request = WorkerStartRequested(call_id=1, model=M, request_id="r")
    answer = apiary.happen(request)[-1]
    assert isinstance(answer, AnswerCall)
    assert answer.pool_id == "p1"
    gone = ProcessReport(
        worker_id=answer.worker_id or W1, model=M, state=WorkerState.FAILED, exited=True
    )
    apiary.snapshot(pool_of("p1", processes=(gone,)))
    assert apiary.happen(replace(request, call_id=2)) == [
        AnswerCall(2, answer.worker_id, PoolId("p1"))
    ]


# --- Restoring ---


def test_several_leases_of_one_worker_are_kept_together_over_a_restart() -> None:
    apiary = Apiary()
    apiary.attach(report_of("w1"))
    apiary.happen(submitted("j1"))
    apiary.happen(submitted("j2"))
    apiary.restart()
    assert len(apiary.state.fleet.workers[W1].leases) == 2
    apiary.advance(limits.LEASE_TTL_MS)
    assert {job.state for job in apiary.state.jobs.values()} == {JobState.QUEUED}


def test_a_new_queen_knows_the_models_and_the_numbers_of_the_old_one() -> None:
    state = restore(Settings(), [], epoch=41, sequence=17, models=["m"], now=START)
    (save, accept) = step(state, submitted("j1"), START)
    assert accept == Accept(JobId("j1"), 0, 0)
    assert state.jobs[JobId("j1")].sequence == 18
    assert state.next_epoch() == 42
    assert save is not None


# --- Figures ---


def test_a_prediction_is_little_s_law_or_nothing() -> None:
    forecast = Forecast()
    fleet = fleet_of(report_of("w1", slots_total=4, state=WorkerState.STARTING))
    assert forecast.start_ms(M, 3, fleet) == 0
    forecast.observe(M, 2_000.0)
    assert forecast.start_ms(M, 3, fleet) == 2_000
    forecast.observe(M, 1_000.0)
    assert forecast.service_ms[M] == 1_875.0
    assert forecast.start_ms(M, 0, fleet_of(report_of("w1"))) == 0
    assert forecast.start_ms(M, 3, Fleet()) == 0
    assert forecast.retry_after_ms(M, 0, Fleet()) == limits.RETRY_DELAY_MS


def test_the_timings_of_a_job_add_up() -> None:
    job = job_of("j1", 1)
    assert set(timings_of(job).values()) == {0.0}
    job.leased_at, job.first_token_at = START.later(100), START.later(150)
    job.ended_at, job.next_index = START.later(1_150), 11
    job.finish = Finish(reason="stop", prefill_ms=50.0, decode_ms=1_000.0)
    assert timings_of(job) == {
        "queue_ms": 100.0,
        "prefill_ms": 50.0,
        "decode_ms": 1_000.0,
        "first_token_ms": 150.0,
        "total_ms": 1_150.0,
        "tokens_per_s": 10.0,
    }


def test_a_timer_is_armed_once() -> None:
    state = QueenState()
    state.set_timer(5, TimerKind.DEADLINE, "j1")
    state.set_timer(3, TimerKind.DEADLINE, "j1")
    state.set_timer(4, TimerKind.SILENCE, "j1")
    assert state.due_timers(2) == []
    assert state.due_timers(5) == [(TimerKind.SILENCE, "j1"), (TimerKind.DEADLINE, "j1")]
    state.set_timer(9, TimerKind.DEADLINE, "j1")
    assert state.due_timers(9) == [(TimerKind.DEADLINE, "j1")]


def test_every_refusal_says_whether_asking_again_can_help() -> None:
    assert conflict().reason is Refusal.REQUEST_ID_CONFLICT
    assert not conflict().reason.is_transient
    assert {reason.value for reason in Refusal} == {reason.name for reason in Refusal}


def test_a_later_moment_is_later_on_both_clocks() -> None:
    assert Instant(1, 2).later(3) == Instant(4, 5)
