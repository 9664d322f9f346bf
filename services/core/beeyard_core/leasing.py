"""The life of a lease for heavy work: asked for, granted, kept alive by heartbeats, given back, taken back, lapsed.

Everything that a holder says passes the fence first: the lease must count, carry the epoch that the holder names, and
be the holder's. What does not pass changes nothing, but for one thing: the holder of a lease that was taken back learns
of it here, and then its units are free.
"""

from dataclasses import replace
from typing import assert_never

from beeyard_core.effect import AnswerWork, Effect, SaveWork
from beeyard_core.event import WorkAsked
from beeyard_core.ids import LeaseId, WorkId, lease_id_of
from beeyard_core.inference_gate import gate_inference
from beeyard_core.instant import Instant
from beeyard_core.matching import match
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.state import QueenState
from beeyard_core.work import Work, WorkLease, WorkState, WorkVerb
from beeyard_core.work_admission import admit_work, known_work
from beeyard_core.work_ask import (
    Claim,
    Completion,
    Denied,
    Failure,
    Granted,
    Heartbeat,
    LeaseWanted,
    Progress,
    Renewed,
    Revocation,
    Submission,
    Told,
    Withdrawal,
    WorkAnswer,
    WorkAsk,
)


def work_asked(state: QueenState, event: WorkAsked, now: Instant, effects: list[Effect]) -> None:
    """Do what is asked about heavy work and answer."""
    # A lease whose time is over is over now, not with the next tick.
    _sound_alarms(state, now, effects)
    answer = _answer(state, event.ask, now, effects)
    effects.append(AnswerWork(event.call_id, answer))


def work_ticked(state: QueenState, now: Instant, effects: list[Effect]) -> None:
    """Rate the hosts, end what is over, and save what holders said of their progress."""
    yard = state.work
    # Before anything ends: what ends now must still be here when it is saved.
    yard.forget_oldest()
    yard.governor.recalculate(state.fleet, now)
    _sound_alarms(state, now, effects)
    effects.extend(SaveWork(work_id) for work_id in yard.unsaved)
    yard.unsaved.clear()
    gate_inference(state, now)


def _answer(state: QueenState, ask: WorkAsk, now: Instant, effects: list[Effect]) -> WorkAnswer:
    match ask:
        case Submission():
            return _submit(state, ask, now, effects)
        case LeaseWanted():
            return _grant(state, ask, now, effects)
        case Heartbeat(claim):
            return _renew(state, claim, now, effects)
        case Progress(claim):
            return _report(state, ask, now, effects)
        case Completion(claim):
            return _release(state, claim, now, effects)
        case Failure(claim):
            return _release(state, claim, now, effects, broke=ask)
        case Revocation():
            return _revoke(state, ask, now, effects)
        case Withdrawal():
            return _withdraw(state, ask, now, effects)
        case _:
            assert_never(ask)


# --- Into the queue, and out of it ---


def _submit(
    state: QueenState, asked: Submission, now: Instant, effects: list[Effect]
) -> Told | Refused:
    known = known_work(state, asked)
    if known is not None:
        return known
    work = admit_work(state, asked, now)
    if isinstance(work, Refused):
        return work
    state.work.remember(work)
    state.work.enqueue(work)
    effects.append(SaveWork(work.work_id))
    return Told(work.work_id)


def _grant(
    state: QueenState, wanted: LeaseWanted, now: Instant, effects: list[Effect]
) -> Granted | Denied | Refused:
    """Lease the most urgent work that fits; the same request id is answered with the same lease while it counts."""
    yard = state.work
    given = yard.grants.get((wanted.holder, wanted.request_id)) if wanted.request_id else None
    if given is not None:
        work = yard.works[yard.leases[given]]
        if not wanted.takes(work):
            return _another_holder()
        lease = work.lease
        assert lease is not None, "a lease that counts is its work's"
        return Granted(lease)
    if wanted.work_id is not None:
        named = yard.works.get(wanted.work_id)
        if named is None or not wanted.takes(named):
            return no_such_work()
    found = match(state, wanted, now)
    if isinstance(found, Denied):
        return found
    work, epoch = found.work, state.next_epoch()
    ttl_ms = state.settings.capacity.lease_ttl_ms
    lease = WorkLease(
        lease_id=lease_id_of(epoch),
        epoch=epoch,
        work_id=work.work_id,
        holder=wanted.holder,
        pool_id=found.pool_id,
        units=work.spec.units,
        granted_at=now,
        expires_at_ms=now.mono_ms + ttl_ms,
        ttl_ms=ttl_ms,
        request_id=wanted.request_id,
    )
    work.move(WorkVerb.LEASE)
    yard.dequeue(work)
    work.attempt += 1
    work.leased_at, work.failure = now, ""
    yard.occupy(work, lease)
    effects.append(SaveWork(work.work_id))
    return Granted(lease)


def _withdraw(
    state: QueenState, asked: Withdrawal, now: Instant, effects: list[Effect]
) -> Told | Refused:
    """Let work not run (any more). What has ended stays as it is."""
    work = state.work.works.get(asked.work_id)
    if work is None:
        return no_such_work()
    if not work.is_ended:
        if work.lease is not None:
            state.work.vacate(work, is_known_to_holder=False)
        _end(state, work, WorkVerb.FAIL, now, effects, failure=asked.reason)
    return Told(work.work_id)


def _another_holder() -> Refused:
    return Refused(
        reason=Refusal.LEASE_HOLDER_MISMATCH,
        message="somebody else asked under this name with this request_id; draw another",
        field="request_id",
    )


def no_such_work() -> Refused:
    """Refuse the name of work that is not there."""
    return Refused(
        reason=Refusal.JOB_NOT_FOUND,
        message="there is no such work, or it ended so long ago that it was forgotten",
        field="work_id",
    )


# --- What holders say ---


def _held(state: QueenState, claim: Claim) -> Work | Refused:
    """Return the work of a lease that counts and is the speaker's: the fence."""
    yard = state.work
    work_id = yard.leases.get(claim.lease_id)
    if work_id is None:
        return _not_current(state, claim)
    work = yard.works[work_id]
    if claim.epoch != work.epoch:
        return stale_epoch(work, "this is not the epoch of the lease")
    assert work.lease is not None, "a lease that counts is its work's"
    if claim.holder != work.lease.holder:
        return Refused(
            reason=Refusal.LEASE_HOLDER_MISMATCH,
            message="somebody else holds this lease; give the worker_id that asked for it",
            field="worker_id",
            metadata={"current_epoch": str(work.epoch)},
        )
    return work


def _not_current(state: QueenState, claim: Claim) -> Refused:
    """Say what became of a lease that does not count; its holder may know now that it was taken back."""
    yard = state.work
    lingering = yard.lingering.get(claim.lease_id)
    if lingering is not None:
        if (lingering.epoch, lingering.holder) == (claim.epoch, claim.holder):
            yard.dismiss(claim.lease_id)
        return stale_epoch(yard.works.get(lingering.work_id), "the lease was taken back")
    # Names are made of epochs, and none is given twice: what was ever given out is over, the rest never was.
    if 0 < claim.epoch <= state.epoch and claim.lease_id == lease_id_of(claim.epoch):
        work_id = yard.last_leases.get(claim.lease_id)
        return stale_epoch(yard.works[work_id] if work_id else None, "the lease is over")
    return no_such_lease()


def stale_epoch(work: Work | None, what: str) -> Refused:
    """Refuse whoever speaks for a lease that does not count (any more)."""
    current = work.epoch if work is not None and work.lease is not None else 0
    return Refused(
        reason=Refusal.STALE_EPOCH,
        message=f"{what}; stop the work, nothing of it counts",
        metadata={"current_epoch": str(current)},
    )


def no_such_lease() -> Refused:
    """Refuse the name of a lease that never was."""
    return Refused(
        reason=Refusal.LEASE_NOT_FOUND, message="there is no such lease", field="lease_id"
    )


def _renew(
    state: QueenState, claim: Claim, now: Instant, effects: list[Effect]
) -> Renewed | Refused:
    """Let the lease live on. The first heartbeat means that the work runs."""
    work = _held(state, claim)
    if isinstance(work, Refused):
        return work
    return Renewed(_prolong(work, now, effects))


def _prolong(work: Work, now: Instant, effects: list[Effect]) -> WorkLease:
    assert work.lease is not None, "the fence was passed"
    if work.state is WorkState.LEASED:
        work.move(WorkVerb.START)
        effects.append(SaveWork(work.work_id))
    # Not saved: a queen that starts gives every lease a whole time to live.
    work.lease = replace(
        work.lease, heartbeat_at=now, expires_at_ms=now.mono_ms + work.lease.ttl_ms
    )
    return work.lease


def _report(
    state: QueenState, asked: Progress, now: Instant, effects: list[Effect]
) -> Renewed | Refused:
    """Take in how far the work is. It is saved with the next tick, however often it is said."""
    work = _held(state, asked.claim)
    if isinstance(work, Refused):
        return work
    lease = _prolong(work, now, effects)
    work.progress, work.message = asked.progress, asked.message
    work.measurements = asked.measurements
    state.work.unsaved[work.work_id] = None
    return Renewed(lease)


def _release(
    state: QueenState,
    claim: Claim,
    now: Instant,
    effects: list[Effect],
    broke: Failure | None = None,
) -> Told | Refused:
    """End a lease by its holder's word. The same word again is answered with the work as it is."""
    yard = state.work
    again = yard.works.get(yard.last_leases.get(claim.lease_id, WorkId("")))
    if again is not None and again.is_released and again.epoch == claim.epoch:
        return Told(again.work_id)
    work = _held(state, claim)
    if isinstance(work, Refused):
        return work
    yard.vacate(work, is_known_to_holder=True)
    work.is_released = True
    if broke is None:
        work.progress = 1.0
        _end(state, work, WorkVerb.COMPLETE, now, effects)
    elif broke.is_retriable and work.has_attempts_left:
        _requeue(state, work, effects, failure=broke.message)
    else:
        _end(state, work, WorkVerb.FAIL, now, effects, failure=broke.message)
    return Told(work.work_id)


def _revoke(
    state: QueenState, asked: Revocation, now: Instant, effects: list[Effect]
) -> Told | Refused:
    """Take a lease away. Its units are free when its holder knows; one that is over already stays as it is."""
    yard = state.work
    work_id = yard.last_leases.get(asked.lease_id)
    if work_id is None:
        return no_such_lease()
    work = yard.works[work_id]
    if work.lease is None:
        return Told(work_id)
    if asked.epoch not in (0, work.epoch):
        return stale_epoch(work, "this is not the epoch of the lease")
    yard.vacate(work, is_known_to_holder=False)
    failure = f"revoked: {asked.reason}" if asked.reason else "revoked"
    if asked.is_requeued and work.has_attempts_left:
        _requeue(state, work, effects, failure=failure)
    else:
        _end(state, work, WorkVerb.FAIL, now, effects, failure=failure)
    return Told(work.work_id)


# --- What time does ---


def _sound_alarms(state: QueenState, now: Instant, effects: list[Effect]) -> None:
    """Look at whatever is due: deadlines, leases without a heartbeat, holders who never learned that theirs is over."""
    yard = state.work
    for key in yard.due(now.mono_ms):
        work = yard.works.get(WorkId(key))
        if work is not None:
            _look_at(state, work, now, effects)
        elif LeaseId(key) in yard.lingering:
            yard.dismiss(LeaseId(key))


def _look_at(state: QueenState, work: Work, now: Instant, effects: list[Effect]) -> None:
    yard, lease = state.work, work.lease
    if work.deadline_at_ms is not None and work.deadline_at_ms <= now.mono_ms and not work.is_ended:
        if lease is not None:
            yard.vacate(work, is_known_to_holder=False)
        failure = f"did not end within its deadline of {work.spec.deadline_ms} ms"
        _end(state, work, WorkVerb.EXPIRE, now, effects, failure=failure)
    elif lease is not None and lease.expires_at_ms > now.mono_ms:
        yard.wake(lease.expires_at_ms, work.work_id)
    elif lease is not None:
        # Its time to live is what the holder had to learn of this by itself.
        yard.vacate(work, is_known_to_holder=True)
        state.counts.leases_expired += 1
        failure = f"no heartbeat for {lease.ttl_ms} ms"
        if work.has_attempts_left:
            _requeue(state, work, effects, failure=failure)
        else:
            _end(state, work, WorkVerb.EXPIRE, now, effects, failure=failure)


def _requeue(state: QueenState, work: Work, effects: list[Effect], *, failure: str) -> None:
    """Put work back at the place of its acceptance."""
    work.move(WorkVerb.REQUEUE)
    work.failure, work.progress = failure, 0.0
    state.work.enqueue(work)
    effects.append(SaveWork(work.work_id))


def _end(
    state: QueenState,
    work: Work,
    verb: WorkVerb,
    now: Instant,
    effects: list[Effect],
    *,
    failure: str = "",
) -> None:
    """End work for good."""
    yard = state.work
    if work.work_id in yard.queue:
        yard.dequeue(work)
    work.move(verb)
    work.ended_at, work.failure = now, failure
    state.quotas.end_work(work.spec.tenant_id)
    yard.by_unique_key.pop((work.spec.tenant_id, work.spec.unique_key), None)
    yard.ended.append(work.work_id)
    effects.append(SaveWork(work.work_id))
