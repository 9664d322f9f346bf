"""Who gets which heavy work, on which host, and when nobody gets any."""

import pytest
from beeyard_core import limits
from beeyard_core.capacity import rooms
from beeyard_core.choice import PlacementInput, place
from beeyard_core.event import ApiMeasured, CancelRequested, JobSubmitted, Ticked, WorkerAttached
from beeyard_core.fleet import HostLoad
from beeyard_core.ids import JobId, ModelName, PoolId, TenantId, WorkerId, WorkId
from beeyard_core.job import JobState, Priority
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.state import Settings
from beeyard_core.work_ask import (
    Completion,
    DenialReason,
    Granted,
    Heartbeat,
    Renewed,
    Withdrawal,
)
from beeyard_core.work_yard import CapacitySettings, InferenceShare

from tests.support.apiary import Apiary
from tests.support.core_values import pool_of, report_of, spec_of
from tests.support.heavy_work import IDLE_API, IDLE_HOST, HeavyWork, claim_of, wanted, yard_with

TTL_MS = limits.WORK_LEASE_TTL_MS


@pytest.fixture
def yard() -> HeavyWork:
    return HeavyWork()


def refusal(answer: object) -> Refusal:
    assert isinstance(answer, Refused), answer
    return answer.reason


# --- Who gets what ---


def test_classes_come_before_age_and_age_before_chance(yard: HeavyWork) -> None:
    order = [
        yard.submit(priority=priority)
        for priority in (Priority.BATCH, Priority.NORMAL, Priority.INTERACTIVE, Priority.NORMAL)
    ]
    got = [yard.lease().work_id for _ in range(4)]
    assert got == [order[2], order[1], order[3], order[0]]


def test_only_work_that_the_caller_can_do_and_wants_is_leased(yard: HeavyWork) -> None:
    yard.submit("backup", units=30)
    reindex = yard.submit("reindex", units=30)
    assert yard.denial(kinds=frozenset({"train"})).reason is DenialReason.NO_WORK
    assert yard.denial(units_max=20).reason is DenialReason.TOO_LARGE
    assert yard.lease(kinds=frozenset({"reindex", "train"})).work_id == reindex


def test_a_caller_may_ask_for_one_piece_of_work(yard: HeavyWork) -> None:
    yard.submit()
    mine = yard.submit("own")
    assert yard.denial(work_id=mine, kinds=frozenset({"backup"})).reason is DenialReason.NO_WORK
    assert yard.lease(work_id=mine).work_id == mine
    assert yard.denial(work_id=mine).reason is DenialReason.NO_WORK
    unknown = yard.ask(wanted(work_id=WorkId("work-none")))
    assert refusal(unknown) is Refusal.JOB_NOT_FOUND


def test_the_same_request_for_a_lease_is_answered_with_the_same_lease_while_it_counts(
    yard: HeavyWork,
) -> None:
    yard.submit()
    yard.submit()
    lease = yard.lease(request_id="r")
    assert yard.ask(wanted(request_id="r")) == Granted(lease)
    assert yard.lease("w2", request_id="r").lease_id != lease.lease_id
    yard.ask(Completion(claim_of(lease)))
    assert yard.denial(request_id="r").reason is DenialReason.NO_WORK


def test_units_in_use_are_not_given_twice(yard: HeavyWork) -> None:
    yard.submit(units=60)
    yard.submit(units=60)
    first = yard.lease()
    denial = yard.denial()
    assert denial.reason is DenialReason.NO_CAPACITY
    assert denial.message == "60 units are needed, 40 are free"
    yard.ask(Completion(claim_of(first)))
    yard.lease()


def test_the_reserve_is_never_leased() -> None:
    yard = yard_with(reserve_units=30)
    yard.submit(units=50)
    yard.submit(units=50)
    yard.lease()
    assert yard.denial().reason is DenialReason.NO_CAPACITY


def test_a_lease_goes_to_the_host_with_the_most_room_or_to_the_one_that_is_named() -> None:
    yard = HeavyWork(hosts={"p1": None, "p2": None})
    yard.load(cpu=75.0, host="p1")
    yard.load(host="p2")
    yard.submit()
    yard.submit()
    yard.submit()
    assert yard.lease().pool_id == "p2"
    assert yard.lease(pool_id=PoolId("p1")).pool_id == "p1"
    denial = yard.denial(pool_id=PoolId("p3"))
    assert denial.reason is DenialReason.CAPACITY_GATED
    assert denial.message == "no such host reports how busy it is"


# --- The gate ---


def test_a_busy_host_leases_less_and_to_fewer_classes(yard: HeavyWork) -> None:
    yard.load(cpu=75.0)
    background = yard.submit(priority=Priority.BACKGROUND)
    assert yard.lease().work_id == background, "rated 4"
    yard.submit(priority=Priority.BACKGROUND)
    yard.load(cpu=100.0)
    denial = yard.denial()
    assert denial.reason is DenialReason.CAPACITY_GATED
    assert denial.message == "too busy for BACKGROUND work: rated 7, cpu_percent is 100"
    large = yard.submit(units=31)
    assert yard.denial().reason is DenialReason.CAPACITY_GATED, "30 units are usable at all"
    yard.ask(Withdrawal(large, ""))
    yard.submit(units=20)
    yard.lease()


def test_leases_that_run_are_not_taken_away_when_a_host_becomes_busy(yard: HeavyWork) -> None:
    yard.submit(units=90)
    lease = yard.lease()
    yard.load(memory=99.0)
    yard.submit(priority=Priority.INTERACTIVE, units=1)
    assert yard.denial().reason is DenialReason.CAPACITY_GATED
    assert isinstance(yard.ask(Heartbeat(claim_of(lease))), Renewed)
    assert yard.used() == 90


def test_stale_reports_lease_nothing_and_fresh_ones_do_without_help(yard: HeavyWork) -> None:
    yard.submit(priority=Priority.INTERACTIVE, units=1)
    yard.advance(limits.REPORT_STALE_MS + 1_000, mute=True)
    assert yard.denial().reason is DenialReason.CAPACITY_GATED
    yard.advance(1_000)
    yard.lease()


def test_a_busy_spike_lets_nothing_through_within_the_report_that_tells_of_it(
    yard: HeavyWork,
) -> None:
    yard.submit(priority=Priority.INTERACTIVE, units=1)
    yard.load(memory=99.0)
    assert yard.denial().reason is DenialReason.CAPACITY_GATED
    yard.load()
    yard.advance(11_000)
    yard.lease()


def test_nothing_is_leased_where_no_host_ever_reported() -> None:
    yard = HeavyWork(hosts={})
    yard.submit(priority=Priority.INTERACTIVE)
    assert yard.denial().reason is DenialReason.CAPACITY_GATED


# --- Order between callers ---


def test_units_are_set_aside_for_more_urgent_work_whose_caller_is_at_the_door(
    yard: HeavyWork,
) -> None:
    yard.submit(units=90)
    running = yard.lease("w0")
    urgent = yard.submit("a", units=80, priority=Priority.INTERACTIVE)
    yard.submit("b", units=30)
    assert yard.denial("w1", kinds=frozenset("a")).reason is DenialReason.NO_CAPACITY
    yard.ask(Completion(claim_of(running)))
    assert yard.denial("w2", kinds=frozenset("b")).reason is DenialReason.NO_CAPACITY
    assert yard.lease("w1", kinds=frozenset("a")).work_id == urgent


def test_whoever_does_not_come_back_is_waited_for_no_longer(yard: HeavyWork) -> None:
    yard.submit(units=90)
    running = yard.lease("w0")
    yard.submit("a", units=80, priority=Priority.INTERACTIVE)
    yard.submit("b", units=30)
    yard.denial("w1", kinds=frozenset("a"))
    yard.ask(Completion(claim_of(running)))
    yard.advance(limits.WORK_AT_THE_DOOR_MS + 250)
    yard.lease("w2", kinds=frozenset("b"))


def test_work_that_waits_for_another_host_holds_nobody_up() -> None:
    yard = HeavyWork(hosts={"p1": None, "p2": None})
    yard.load(host="p1")
    yard.load(host="p2")
    yard.submit(units=90)
    running = yard.lease("w0", pool_id=PoolId("p1"))
    yard.submit("a", units=80, priority=Priority.INTERACTIVE)
    yard.submit("b", units=60)
    yard.denial("w1", kinds=frozenset("a"), pool_id=PoolId("p1"))
    yard.ask(Completion(claim_of(running)))
    assert yard.lease("w2", kinds=frozenset("b")).pool_id == "p2"


def test_small_work_overtakes_large_until_the_large_has_waited_for_long(yard: HeavyWork) -> None:
    yard.submit(units=50)
    holder = yard.lease("w0")
    large = yard.submit("large", units=80)
    for _ in range(3):
        yard.submit("small", units=20)
    assert yard.lease("w1").units == 20, "it fits, the large one does not"
    for _ in range(limits.WORK_PATIENCE_MS // 10_000 + 1):
        yard.advance(10_000)
        yard.ask(Heartbeat(claim_of(holder)))
        yard.denial("w2", work_id=large)
    denial = yard.denial("w1", kinds=frozenset({"small"}))
    assert denial.message == "work that has waited for long is first"
    yard.ask(Completion(claim_of(holder)))
    yard.advance(TTL_MS)
    assert yard.lease("w1").work_id == large


# --- Sharing with inference ---


def with_jobs(share: InferenceShare, *, cost_units: int) -> HeavyWork:
    """Two jobs that run on a worker of host p1."""
    yard = yard_with(inference=share)
    yard.happen(WorkerAttached(session=1, report=report_of("worker-1")))
    for name in ("j1", "j2"):
        yard.happen(JobSubmitted(job_id=JobId(name), spec=spec_of(cost_units=cost_units)))
    assert len(yard.state.leases) == 2
    return yard


def test_inference_takes_its_cost_from_what_heavy_work_may_get() -> None:
    yard = with_jobs(InferenceShare.COUNTED, cost_units=30)
    yard.submit(units=50)
    denial = yard.denial()
    assert denial.reason is DenialReason.NO_CAPACITY
    assert denial.message == "50 units are needed, 40 are free"


def test_inference_may_cost_more_than_there_is_and_free_units_are_not_negative() -> None:
    yard = with_jobs(InferenceShare.COUNTED, cost_units=90)
    yard.submit(units=1)
    assert yard.denial().message == "1 units are needed, 0 are free"


def gated() -> Apiary:
    """A worker on host p1, for whose inference the governor counts."""
    settings = Settings(capacity=CapacitySettings(inference=InferenceShare.GATED))
    apiary = Apiary(settings)
    apiary.snapshot(pool_of(load=IDLE_HOST))
    apiary.attach(report_of("w1"))
    return apiary


def submitted(apiary: Apiary, name: str = "j1", **changes: object) -> JobState:
    """Submit a job, let a tick pass, and return where the job is."""
    apiary.happen(JobSubmitted(job_id=JobId(name), spec=spec_of(**changes)))  # type: ignore[arg-type]
    apiary.happen(ApiMeasured(IDLE_API))
    apiary.happen(Ticked())
    return apiary.state.jobs[JobId(name)].state


def test_inference_waits_where_it_is_gated_until_its_host_has_been_rated() -> None:
    apiary = gated()
    apiary.happen(JobSubmitted(job_id=JobId("j0"), spec=spec_of()))
    job = apiary.state.jobs[JobId("j0")]
    (found,) = place(
        PlacementInput(spec=job.spec, fleet=apiary.state.fleet, now_ms=apiary.now.mono_ms)
    ).trace
    assert found.exclusion is not None
    assert found.exclusion.reason is Refusal.CAPACITY_GATED
    apiary.happen(ApiMeasured(IDLE_API))
    apiary.happen(Ticked())
    assert job.state is JobState.LEASED


def test_gated_inference_waits_for_a_busy_host_and_goes_on_without_help() -> None:
    apiary = gated()
    assert submitted(apiary, "j1") is JobState.LEASED
    apiary.snapshot(pool_of(load=HostLoad(cpu_percent=10.0, memory_percent=99.0)))
    apiary.happen(Ticked())
    assert submitted(apiary, "j2") is JobState.QUEUED
    apiary.snapshot(pool_of(load=IDLE_HOST))
    for _ in range(12):
        apiary.happen(ApiMeasured(IDLE_API))
        apiary.advance(1_000)
    assert apiary.state.jobs[JobId("j2")].state is JobState.LEASED


def test_gated_inference_starts_while_a_unit_is_free() -> None:
    apiary = gated()
    assert submitted(apiary, "j1", cost_units=60) is JobState.LEASED
    assert submitted(apiary, "j2", cost_units=60) is JobState.LEASED, "one was free"
    assert submitted(apiary, "j3") is JobState.QUEUED
    assert [room.free for room in rooms(apiary.state, apiary.now)] == [0]


def test_a_gate_closes_one_host_and_not_its_neighbours() -> None:
    apiary = gated()
    apiary.snapshot(pool_of("p2", load=HostLoad(cpu_percent=10.0, memory_percent=99.0)))
    apiary.attach(report_of("w0", pool_id=PoolId("p2")))
    apiary.attach(report_of("alone", pool_id=PoolId("nobody"), model=ModelName("n")))
    states = [submitted(apiary, f"j{number}") for number in range(6)]
    assert states == [JobState.LEASED] * 4 + [JobState.QUEUED] * 2
    assert not apiary.state.fleet.workers[WorkerId("w0")].leases
    assert submitted(apiary, "own", model="n") is JobState.LEASED, "no pool manager, no gate"


def test_inference_costs_nothing_where_the_setting_says_so() -> None:
    yard = with_jobs(InferenceShare.IGNORED, cost_units=90)
    yard.submit(units=100)
    yard.lease()


def test_a_job_that_the_core_forgot_counts_one_unit_until_its_worker_stops() -> None:
    yard = with_jobs(InferenceShare.COUNTED, cost_units=30)
    yard.happen(CancelRequested(JobId("j1")))
    del yard.state.jobs[JobId("j1")]
    yard.submit(units=70)
    assert yard.denial().message == "70 units are needed, 69 are free"


# --- Callers that work for one tenant ---


def test_whoever_works_for_a_tenant_gets_only_its_work(yard: HeavyWork) -> None:
    others = yard.submit(tenant_id=TenantId("b"), priority=Priority.INTERACTIVE)
    # Of the same line, and accepted later: the whole line is looked through.
    first = yard.submit(tenant_id=TenantId("b"))
    own = yard.submit(tenant_id=TenantId("a"))
    assert yard.lease(tenant_id=TenantId("a")).work_id == own
    assert yard.denial(tenant_id=TenantId("a")).reason is DenialReason.NO_WORK
    assert [yard.lease().work_id for _ in range(2)] == [others, first]


def test_work_of_another_tenant_is_not_there_by_its_name(yard: HeavyWork) -> None:
    work_id = yard.submit(tenant_id=TenantId("b"))
    assert refusal(yard.ask(wanted(work_id=work_id, tenant_id=TenantId("a")))) is (
        Refusal.JOB_NOT_FOUND
    )
    assert yard.lease(work_id=work_id, tenant_id=TenantId("b")).work_id == work_id


def test_a_lease_is_not_told_again_to_another_tenant_under_the_same_names(yard: HeavyWork) -> None:
    yard.submit(tenant_id=TenantId("b"))
    yard.submit(tenant_id=TenantId("a"))
    given = yard.lease(request_id="r1", tenant_id=TenantId("b"))
    assert refusal(yard.ask(wanted(request_id="r1", tenant_id=TenantId("a")))) is (
        Refusal.LEASE_HOLDER_MISMATCH
    )
    again = yard.ask(wanted(request_id="r1", tenant_id=TenantId("b")))
    assert again == Granted(given)
