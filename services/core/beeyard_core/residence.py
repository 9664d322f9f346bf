"""Which workers may be made to leave: none that works, none below the least, none that has hardly come.

Loading a model costs seconds to minutes, so two models that want one device by turns must not throw each other out for
every job. A worker that has just been loaded keeps its place for the *residence* against all work that is not more
urgent than what it served since; whoever waits gets the place then. One that has served nobody yet was loaded for
somebody, and keeps its place against everything. So between two exchanges on one device lies a residence, unless the
second is for more urgent work than the first.

Policies see the same (`resident_at`, `served_class`), and the platform policy keeps to it by itself; this is the check
that holds for every policy.
"""

from beeyard_core.fleet import Worker
from beeyard_core.ids import ModelName
from beeyard_core.instant import Instant
from beeyard_core.job import Priority
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.state import QueenState


def unevictable(state: QueenState, worker: Worker, now: Instant) -> Refused | None:
    """Return why a worker may not be evicted; None: it may."""
    if worker.leases:
        message = (
            f"the worker holds {len(worker.leases)} leases; only one that holds none is evicted"
        )
        return Refused(reason=Refusal.WORKER_BUSY, message=message)
    model = worker.report.model
    workers = state.fleet.workers
    staying = sum(not workers[each].is_drained for each in state.fleet.by_model.get(model, ()))
    if staying <= state.scale_of(model).min_workers:
        message = f"the operator keeps {staying} of {model} running"
        return Refused(reason=Refusal.PERMISSION_DENIED, message=message)
    rest_ms = worker.resident_since_ms + state.settings.scaling.residence_ms - now.mono_ms
    if worker.resident_since_ms and rest_ms > 0 and not _waits_for_another(state, worker, model):
        message = f"the worker was loaded just now and keeps its place for {rest_ms} ms more"
        return Refused(reason=Refusal.PERMISSION_DENIED, message=message, retry_after_ms=rest_ms)
    return None


def _waits_for_another(state: QueenState, worker: Worker, model: ModelName) -> bool:
    """Whether a job waits for another model that is more urgent than anything that the worker served."""
    served = worker.served_class
    if served is None:
        return False
    more_urgent = (priority for priority in Priority if priority < served)
    return any(set(state.queue.models(priority)) - {model} for priority in more_urgent)
