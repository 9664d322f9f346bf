"""Heavy work and its leases, as stories on a clock that is turned by hand."""

import pytest
from beeyard_core import limits
from beeyard_core.event import DrainBegun
from beeyard_core.ids import Epoch, LeaseId, WorkId, epoch_of, lease_id_of
from beeyard_core.job import IllegalMove, Priority
from beeyard_core.refusal import Refusal, Refused
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

from tests.support.heavy_work import HeavyWork, claim_of, lease_named, wanted, yard_with

TTL_MS = limits.WORK_LEASE_TTL_MS


@pytest.fixture
def yard() -> HeavyWork:
    return HeavyWork()


def refusal(answer: object) -> Refusal:
    assert isinstance(answer, Refused), answer
    return answer.reason


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


def test_the_name_of_a_lease_stands_for_its_epoch() -> None:
    assert epoch_of(lease_id_of(Epoch(12))) == 12
    for other in ("", "lease-", "lease-012", "lease--1", "12", "lease-²", "lease-" + "9" * 19):
        assert epoch_of(LeaseId(other)) == 0


def test_what_is_withdrawn_behind_a_waiting_head_does_not_pile_up(yard: HeavyWork) -> None:
    head = yard.submit()
    for _ in range(200):
        yard.ask(Withdrawal(yard.submit(), ""))
    (line,) = yard.state.work.queue._lines[Priority.NORMAL].values()
    assert len(line) <= 40
    assert yard.lease().work_id == head
