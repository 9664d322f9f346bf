"""Heavy work and its leases, as stories on a clock that is turned by hand."""

import pytest
from beeyard_core import limits
from beeyard_core.event import CancelRequested, DrainBegun, JobSubmitted, WorkerAttached
from beeyard_core.ids import Epoch, JobId, LeaseId, PoolId, WorkId
from beeyard_core.job import IllegalMove, Priority
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.state import Settings
from beeyard_core.work import TERMINAL, TRANSITIONS, WorkState, WorkVerb
from beeyard_core.work_ask import (
    Claim,
    Completion,
    DenialReason,
    Failure,
    Granted,
    Heartbeat,
    Progress,
    Renewed,
    Revocation,
    Told,
    Withdrawal,
)
from beeyard_core.work_yard import CapacitySettings, InferenceShare

from tests.support.core_values import report_of, spec_of
from tests.support.heavy_work import HeavyWork, claim_of, lease_named, wanted

TTL_MS = limits.WORK_LEASE_TTL_MS


@pytest.fixture
def yard() -> HeavyWork:
    return HeavyWork()


def refusal(answer: object) -> Refusal:
    assert isinstance(answer, Refused), answer
    return answer.reason


def yard_with(**changes: object) -> HeavyWork:
    return HeavyWork(settings=Settings(capacity=CapacitySettings(**changes)))  # type: ignore[arg-type]


# --- The whole way ---


def test_work_waits_is_leased_runs_and_is_completed(yard: HeavyWork) -> None:
    work_id = yard.submit()
    assert yard.state_of(work_id) is WorkState.QUEUED
    lease = yard.lease("w1")
    assert (lease.work_id, lease.pool_id, lease.units) == (work_id, "p1", 10)
    assert yard.state_of(work_id) is WorkState.LEASED
    assert yard.used() == 10
    assert isinstance(yard.ask(Heartbeat(claim_of(lease))), Renewed)
    assert yard.state_of(work_id) is WorkState.RUNNING
    assert yard.durable[work_id].state is WorkState.RUNNING
    assert yard.ask(Completion(claim_of(lease))) == Told(work_id)
    assert yard.state_of(work_id) is WorkState.COMPLETED
    assert yard.work(work_id).progress == 1.0
    assert yard.used() == 0


def test_short_work_is_done_before_its_first_heartbeat(yard: HeavyWork) -> None:
    work_id = yard.submit()
    assert yard.ask(Completion(claim_of(yard.lease()))) == Told(work_id)


def test_a_failure_is_tried_again_only_if_it_may_help_and_attempts_are_left(
    yard: HeavyWork,
) -> None:
    work_id = yard.submit(max_attempts=2)
    yard.ask(Failure(claim_of(yard.lease()), "no disk", is_retriable=True))
    assert yard.state_of(work_id) is WorkState.QUEUED
    assert yard.work(work_id).failure == "no disk"
    yard.ask(Failure(claim_of(yard.lease()), "no disk still", is_retriable=True))
    assert yard.state_of(work_id) is WorkState.FAILED
    other = yard.submit()
    yard.ask(Failure(claim_of(yard.lease()), "wrong", is_retriable=False))
    assert yard.state_of(other) is WorkState.FAILED
    assert yard.work(other).failure == "wrong"


# --- Submission ---


def test_the_same_request_is_the_same_work_and_another_body_is_refused(yard: HeavyWork) -> None:
    first = yard.ask(yard.submission(request_id="r", digest=b"a"))
    assert yard.ask(yard.submission(request_id="r", digest=b"a")) == first
    again = yard.ask(yard.submission(request_id="r", digest=b"b"))
    assert refusal(again) is Refusal.REQUEST_ID_CONFLICT
    other = yard.ask(yard.submission(request_id="r", digest=b"b", tenant_id="other"))
    assert other != first


def test_work_with_a_unique_key_is_there_once_until_it_ends(yard: HeavyWork) -> None:
    first = yard.submit(unique_key="nightly")
    assert yard.submit(unique_key="nightly") == first
    assert yard.submit(unique_key="nightly", tenant_id="other") != first
    yard.ask(Withdrawal(first, "not today"))
    assert yard.submit(unique_key="nightly") != first


def test_work_that_no_idle_host_could_run_is_refused() -> None:
    yard = yard_with(units_per_host=50, reserve_units=10)
    answer = yard.ask(yard.submission(units=41))
    assert refusal(answer) is Refusal.INVALID_REQUEST
    assert isinstance(yard.ask(yard.submission(units=40)), Told)


def test_a_full_queue_refuses(yard: HeavyWork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WORK_QUEUE_DEPTH_MAX", 2)
    yard.submit()
    yard.submit()
    answer = yard.ask(yard.submission())
    assert refusal(answer) is Refusal.QUEUE_FULL_REJECT
    assert isinstance(answer, Refused)
    assert answer.retry_after_ms == limits.WORK_RETRY_MS


def test_a_draining_queen_takes_and_leases_nothing_but_hears_its_holders(yard: HeavyWork) -> None:
    yard.submit()
    yard.submit()
    lease = yard.lease()
    yard.happen(DrainBegun())
    assert refusal(yard.ask(yard.submission())) is Refusal.DRAINING
    assert yard.denial().reason is DenialReason.DRAINING
    assert isinstance(yard.ask(Heartbeat(claim_of(lease))), Renewed)


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


# --- The fence ---


def test_a_lease_that_never_was_is_not_found(yard: HeavyWork) -> None:
    assert refusal(yard.ask(Heartbeat(lease_named(7)))) is Refusal.LEASE_NOT_FOUND
    assert refusal(yard.ask(Completion(lease_named(7)))) is Refusal.LEASE_NOT_FOUND
    revoked = yard.ask(Revocation(LeaseId("lease-7"), Epoch(0), "", is_requeued=True))
    assert refusal(revoked) is Refusal.LEASE_NOT_FOUND


def test_somebody_else_is_told_so_and_a_wrong_epoch_is_stale(yard: HeavyWork) -> None:
    yard.submit()
    lease = yard.lease("w1")
    other = Claim(lease.lease_id, lease.epoch, wanted("w2").holder)
    assert refusal(yard.ask(Heartbeat(other))) is Refusal.LEASE_HOLDER_MISMATCH
    old = Claim(lease.lease_id, Epoch(lease.epoch - 1), lease.holder)
    answer = yard.ask(Progress(old, 0.5))
    assert refusal(answer) is Refusal.STALE_EPOCH
    assert isinstance(answer, Refused)
    assert answer.metadata["current_epoch"] == str(lease.epoch)
    assert yard.state_of(lease.work_id) is WorkState.LEASED, "it changed nothing"


def test_a_process_that_was_stopped_for_a_while_cannot_spoil_its_successors_work(
    yard: HeavyWork,
) -> None:
    work_id = yard.submit()
    stopped = yard.lease("w1")
    yard.advance(TTL_MS)
    successor = yard.lease("w2")
    for ask in (
        Heartbeat(claim_of(stopped)),
        Progress(claim_of(stopped), 0.9),
        Completion(claim_of(stopped)),
        Failure(claim_of(stopped), "late", is_retriable=False),
    ):
        assert refusal(yard.ask(ask)) is Refusal.STALE_EPOCH
    assert yard.work(work_id).lease == successor


def test_the_same_release_again_is_answered_with_the_work_as_it_is(yard: HeavyWork) -> None:
    work_id = yard.submit()
    lease = yard.lease()
    yard.ask(Completion(claim_of(lease)))
    assert yard.ask(Completion(claim_of(lease))) == Told(work_id)
    assert refusal(yard.ask(Heartbeat(claim_of(lease)))) is Refusal.STALE_EPOCH


# --- Time ---


def test_a_lease_without_a_heartbeat_lapses_and_its_work_waits_again(yard: HeavyWork) -> None:
    work_id = yard.submit(max_attempts=2)
    yard.lease()
    yard.advance(TTL_MS - 250)
    assert yard.state_of(work_id) is WorkState.LEASED
    yard.advance(250)
    assert yard.state_of(work_id) is WorkState.QUEUED
    assert yard.used() == 0
    yard.lease()
    yard.advance(TTL_MS)
    assert yard.state_of(work_id) is WorkState.EXPIRED, "its attempts are used up"
    assert yard.work(work_id).failure == f"no heartbeat for {TTL_MS} ms"


def test_heartbeats_keep_a_lease_alive(yard: HeavyWork) -> None:
    work_id = yard.submit()
    lease = yard.lease()
    for _ in range(10):
        yard.advance(TTL_MS - 1_000)
        assert isinstance(yard.ask(Heartbeat(claim_of(lease))), Renewed)
    assert yard.state_of(work_id) is WorkState.RUNNING


def test_a_heartbeat_that_comes_too_late_is_too_late_even_before_the_next_tick(
    yard: HeavyWork,
) -> None:
    yard.submit()
    lease = yard.lease()
    yard.now = yard.now.later(TTL_MS)
    assert refusal(yard.ask(Heartbeat(claim_of(lease)))) is Refusal.STALE_EPOCH


def test_a_jump_of_the_wall_clock_expires_nothing(yard: HeavyWork) -> None:
    yard.submit()
    lease = yard.lease()
    yard.now = yard.now._replace(wall_ms=yard.now.wall_ms + 86_400_000)
    yard.advance(1_000)
    assert isinstance(yard.ask(Heartbeat(claim_of(lease))), Renewed)


def test_work_past_its_deadline_expires_whether_it_waits_or_runs(yard: HeavyWork) -> None:
    waiting = yard.submit("late", deadline_ms=5_000, units=60)
    running = yard.submit(deadline_ms=5_000)
    lease = yard.lease(kinds=frozenset({"backup"}))
    yard.advance(5_000)
    assert yard.state_of(waiting) is yard.state_of(running) is WorkState.EXPIRED
    assert yard.work(running).failure == "did not end within its deadline of 5000 ms"
    assert yard.used() == 10, "its holder does not know yet"
    assert refusal(yard.ask(Heartbeat(claim_of(lease)))) is Refusal.STALE_EPOCH
    assert yard.used() == 0
    yard.advance(TTL_MS)


# --- Taken back ---


def test_a_revoked_lease_frees_its_units_when_its_holder_knows(yard: HeavyWork) -> None:
    work_id = yard.submit(units=60)
    lease = yard.lease()
    answer = yard.ask(Revocation(lease.lease_id, Epoch(0), "reboot", is_requeued=True))
    assert answer == Told(work_id)
    assert yard.state_of(work_id) is WorkState.QUEUED
    assert yard.work(work_id).failure == "revoked: reboot"
    assert yard.denial("w2").reason is DenialReason.NO_CAPACITY, "it may still be computing"
    other = Claim(lease.lease_id, lease.epoch, wanted("w3").holder)
    assert refusal(yard.ask(Heartbeat(other))) is Refusal.STALE_EPOCH
    assert yard.used() == 60, "somebody else's word frees nothing"
    assert refusal(yard.ask(Completion(claim_of(lease)))) is Refusal.STALE_EPOCH
    assert yard.lease("w2").work_id == work_id


def test_a_revoked_lease_whose_holder_is_silent_frees_its_units_after_its_time(
    yard: HeavyWork,
) -> None:
    work_id = yard.submit()
    lease = yard.lease()
    again = Revocation(lease.lease_id, lease.epoch, "", is_requeued=False)
    assert yard.ask(again) == yard.ask(again) == Told(work_id)
    assert yard.state_of(work_id) is WorkState.FAILED
    assert yard.work(work_id).failure == "revoked"
    assert yard.used() == 10
    yard.advance(TTL_MS)
    assert yard.used() == 0


def test_a_revocation_with_an_old_epoch_changes_nothing(yard: HeavyWork) -> None:
    yard.submit()
    lease = yard.lease()
    answer = yard.ask(Revocation(lease.lease_id, Epoch(99), "", is_requeued=True))
    assert refusal(answer) is Refusal.STALE_EPOCH
    assert isinstance(yard.ask(Heartbeat(claim_of(lease))), Renewed)


def test_revoked_work_without_attempts_left_fails(yard: HeavyWork) -> None:
    work_id = yard.submit(max_attempts=1)
    lease = yard.lease()
    yard.ask(Revocation(lease.lease_id, Epoch(0), "", is_requeued=True))
    assert yard.state_of(work_id) is WorkState.FAILED


def test_work_can_be_withdrawn_at_any_time_once(yard: HeavyWork) -> None:
    queued, held = yard.submit("a"), yard.submit("b")
    lease = yard.lease(kinds=frozenset("b"))
    for work_id in (queued, held):
        assert yard.ask(Withdrawal(work_id, "not needed")) == Told(work_id)
        assert yard.state_of(work_id) is WorkState.FAILED
        assert yard.ask(Withdrawal(work_id, "again")) == Told(work_id)
        assert yard.work(work_id).failure == "not needed"
    assert refusal(yard.ask(Heartbeat(claim_of(lease)))) is Refusal.STALE_EPOCH
    unknown = yard.ask(Withdrawal(WorkId("work-none"), ""))
    assert refusal(unknown) is Refusal.JOB_NOT_FOUND


# --- Progress ---


def test_progress_is_kept_at_once_and_saved_with_the_next_tick(yard: HeavyWork) -> None:
    work_id = yard.submit()
    lease = yard.lease()
    yard.ask(Heartbeat(claim_of(lease)))
    for share in (0.2, 0.5):
        answer = yard.ask(Progress(claim_of(lease), share, f"at {share}", {"files": share * 10}))
        assert isinstance(answer, Renewed)
    assert yard.work(work_id).progress == 0.5
    assert yard.durable[work_id].progress == 0.0
    yard.advance(250)
    saved = yard.durable[work_id]
    assert (saved.progress, saved.message, saved.measurements) == (0.5, "at 0.5", {"files": 5.0})


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


# --- Memory ---


def test_a_restarted_queen_goes_on_with_work_and_leases(yard: HeavyWork) -> None:
    held, queued = yard.submit(deadline_ms=60_000, request_id="r"), yard.submit(unique_key="u")
    lease = yard.lease(request_id="mine")
    yard.restart(away_ms=1_000)
    assert yard.ask(wanted(request_id="mine")) == Granted(yard.work(held).lease)  # type: ignore[arg-type]
    assert isinstance(yard.ask(Heartbeat(claim_of(lease))), Renewed)
    assert yard.submit(unique_key="u") == queued
    other = yard.lease("w2")
    assert (other.work_id, other.epoch > lease.epoch) == (queued, True)
    assert yard.submit() not in (held, queued)
    assert yard.used() == 20


def test_a_lease_that_nobody_claims_after_a_restart_lapses(yard: HeavyWork) -> None:
    work_id = yard.submit()
    yard.lease()
    yard.advance(TTL_MS - 1_000)
    yard.restart()
    yard.advance(TTL_MS - 250)
    assert yard.state_of(work_id) is WorkState.LEASED, "it has a whole time to live again"
    yard.advance(250)
    assert yard.state_of(work_id) is WorkState.QUEUED


def test_only_the_youngest_ended_work_stays_in_memory(
    yard: HeavyWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ENDED_WORK_KEPT_MAX", 1)
    ended = [yard.submit(request_id=f"r{number}") for number in range(3)]
    for _ in ended:
        yard.ask(Completion(claim_of(yard.lease())))
    yard.advance(250)
    assert list(yard.state.work.works) == ended[-1:]
    assert set(yard.durable) == set(ended)


# --- The table ---


@pytest.mark.parametrize("state", WorkState)
def test_an_illegal_move_of_work_raises_and_changes_nothing(state: WorkState) -> None:
    yard = HeavyWork()
    work = yard.work(yard.submit())
    work.state = state
    for verb in WorkVerb:
        if verb not in TRANSITIONS[state]:
            with pytest.raises(IllegalMove, match=f"work that is {state.value} cannot"):
                work.move(verb)
    assert work.state is state
    assert (state in TERMINAL) == work.is_ended


def test_what_is_final_for_work_follows_from_the_table() -> None:
    assert {state.value for state in TERMINAL} == {"completed", "failed", "expired"}
    assert set(TRANSITIONS) == set(WorkState)
