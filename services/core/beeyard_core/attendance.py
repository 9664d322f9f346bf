"""Workers and hosts that come, report, fall silent and go."""

from beeyard_core import limits
from beeyard_core.dispatch import free, revoke
from beeyard_core.effect import (
    CountStaleEpoch,
    Effect,
    RefuseWorker,
    RemoveWorker,
    Revoke,
    Welcome,
)
from beeyard_core.event import (
    LeaseClaim,
    PoolReported,
    WorkerAttached,
    WorkerDetached,
    WorkerReported,
)
from beeyard_core.fleet import SERVING, Pool, Worker, WorkerReport
from beeyard_core.ids import Epoch, LeaseId
from beeyard_core.inference_gate import host_reported
from beeyard_core.instant import Instant
from beeyard_core.lease import Lease, LeaseState, LeaseVerb
from beeyard_core.measuring import note_speed
from beeyard_core.reconcile import see_process, send_desired
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.retrying import retry_or_fail
from beeyard_core.state import QueenState, TimerKind


def worker_attached(
    state: QueenState, event: WorkerAttached, now: Instant, effects: list[Effect]
) -> None:
    """Take in a worker's hello: adopt the leases that it rightly claims, take back what it does not claim."""
    report = event.report
    worker = state.fleet.workers.get(report.worker_id)
    if worker is None:
        if len(state.fleet.workers) >= limits.WORKERS_MAX:
            refused = Refused(
                reason=Refusal.CAPACITY_GATED,
                message=f"the queen has {limits.WORKERS_MAX} workers already",
                retry_after_ms=limits.REPORT_STALE_MS,
            )
            effects.append(RefuseWorker(report.worker_id, event.session, refused))
            return
        worker = Worker(report=report, session=event.session, heard_at_ms=now.mono_ms)
        state.fleet.workers[report.worker_id] = worker
    if worker.incarnation != event.incarnation:
        # Another process under an old name has to load the model again.
        worker.resident_since_ms, worker.served_class, worker.is_leaving = 0, None, False
    if worker.incarnation != event.incarnation or worker.report.model != report.model:
        state.prefixes.forget(report.worker_id)
    worker.session, worker.incarnation = event.session, event.incarnation
    worker.is_drained = state.drained.get(report.worker_id) == event.incarnation
    if not worker.is_drained:
        # Another process under an old name: what was decided about its predecessor is no concern of it.
        state.drained.pop(report.worker_id, None)
    adopted = _settle_claims(state, worker, event.claims, now, effects)
    effects.append(Welcome(report.worker_id, event.session, adopted))
    _take_report(state, worker, report, now)
    state.set_timer(now.mono_ms + state.settings.lease_ttl_ms, TimerKind.SILENCE, report.worker_id)


def _settle_claims(
    state: QueenState,
    worker: Worker,
    claims: tuple[LeaseClaim, ...],
    now: Instant,
    effects: list[Effect],
) -> tuple[tuple[LeaseId, Epoch], ...]:
    """Return the claims that hold; end every lease of the worker that it does not claim."""
    adopted: list[tuple[LeaseId, Epoch]] = []
    for claim in claims:
        lease = state.leases.get(claim.lease_id)
        if lease is None or lease.epoch != claim.epoch or claim.lease_id not in worker.leases:
            effects.append(CountStaleEpoch(worker.report.worker_id, claim.lease_id, claim.epoch))
        elif lease.is_current:
            if lease.state is LeaseState.OFFERED:
                lease.move(LeaseVerb.ACCEPT)
            adopted.append((claim.lease_id, claim.epoch))
    held = {lease_id for lease_id, _ in adopted}
    for lease_id in sorted(worker.leases - held):
        _lose(state, state.leases[lease_id], LeaseVerb.RELEASE, now, effects)
    return tuple(adopted)


def _lose(
    state: QueenState, lease: Lease, verb: LeaseVerb, now: Instant, effects: list[Effect]
) -> None:
    """End a lease without a result; its job tries again if the lease still counted."""
    counted = lease.is_current
    free(state, lease, verb)
    if counted:
        cause = Refused(
            reason=Refusal.WORKER_COMMUNICATION_FAILED,
            message="the worker was lost",
            metadata={"attempt": str(lease.attempt), "worker": lease.worker_id},
        )
        retry_or_fail(state, state.jobs[lease.job_id], cause, now, effects)


def _take_report(state: QueenState, worker: Worker, report: WorkerReport, now: Instant) -> None:
    """Replace what is known of a worker."""
    worker.report, worker.heard_at_ms, worker.is_saturated = report, now.mono_ms, False
    state.fleet.known_models.add(report.model)
    if report.state in SERVING:
        state.note_loaded(report.model, report.worker_id)
        worker.resident_since_ms = worker.resident_since_ms or now.mono_ms
    state.fleet.reindex(worker)
    note_speed(state.fleet, worker)


def worker_detached(state: QueenState, event: WorkerDetached) -> None:
    """The stream is gone. Leases live on until the worker returns or has been silent for too long."""
    worker = state.fleet.workers.get(event.worker_id)
    if worker is None or worker.session != event.session:
        return
    worker.session = 0
    if worker.leases:
        state.fleet.reindex(worker)
    else:
        _remove(state, worker)


def worker_reported(state: QueenState, event: WorkerReported, now: Instant) -> None:
    """A heartbeat renews everything that the worker holds."""
    worker = state.fleet.workers.get(event.report.worker_id)
    if worker is not None and worker.session == event.session:
        _take_report(state, worker, event.report, now)


def silence_timer(state: QueenState, worker: Worker, now: Instant, effects: list[Effect]) -> None:
    """Expire the leases of a worker that was silent for the time to live; look again later otherwise."""
    due_ms = worker.heard_at_ms + state.settings.lease_ttl_ms
    if now.mono_ms < due_ms:
        state.set_timer(due_ms, TimerKind.SILENCE, worker.report.worker_id)
        return
    _dismiss(state, worker, now, effects)


def offer_timer(state: QueenState, lease_id: LeaseId, now: Instant, effects: list[Effect]) -> None:
    """Take back an offer that its worker, though it reports, did not answer for a time to live."""
    lease = state.leases.get(lease_id)
    if lease is None or lease.state is not LeaseState.OFFERED:
        return
    revoke(state, lease)
    effects.append(Revoke(lease.worker_id, lease_id, lease.epoch))
    state.set_timer(now.mono_ms + state.settings.lease_ttl_ms, TimerKind.REVOCATION, lease_id)
    cause = Refused(
        reason=Refusal.WORKER_COMMUNICATION_FAILED,
        message="the worker did not answer the offer",
        metadata={"attempt": str(lease.attempt), "worker": lease.worker_id},
    )
    retry_or_fail(state, state.jobs[lease.job_id], cause, now, effects)


def revocation_timer(state: QueenState, lease_id: LeaseId) -> None:
    """Give back the slot of a lease whose worker, though it reports, never said that it stopped."""
    lease = state.leases.get(lease_id)
    if lease is not None and lease.state is LeaseState.REVOKED:
        free(state, lease, LeaseVerb.RELEASE)


def _dismiss(state: QueenState, worker: Worker, now: Instant, effects: list[Effect]) -> None:
    """Forget a worker that is gone, with its leases."""
    for lease_id in sorted(worker.leases):
        _lose(state, state.leases[lease_id], LeaseVerb.EXPIRE, now, effects)
    effects.append(RemoveWorker(worker.report.worker_id, worker.session))
    _remove(state, worker)


def _remove(state: QueenState, worker: Worker) -> None:
    """Forget a worker and what its cache holds."""
    state.fleet.remove(worker)
    state.prefixes.forget(worker.report.worker_id)


def pool_reported(
    state: QueenState, event: PoolReported, now: Instant, effects: list[Effect]
) -> None:
    """Take in a host's snapshot; a worker whose process has exited loses its leases at once."""
    report = event.report
    pools = state.fleet.pools
    if report.pool_id not in pools and len(pools) >= limits.POOLS_MAX:
        return
    pools[report.pool_id] = Pool(report, now.mono_ms)
    state.fleet.known_models.update(cached.model for cached in report.models)
    state.fleet.version += 1
    state.touched.pools[report.pool_id] = None
    host_reported(state, report, now)
    for process in report.processes:
        see_process(state, process, now)
        worker = state.fleet.workers.get(process.worker_id)
        if process.exited and worker is not None:
            _dismiss(state, worker, now, effects)
    if event.is_first:
        send_desired(state, report.pool_id, effects)
