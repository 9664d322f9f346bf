"""Whether a job is accepted. Everything that is certain to fail later is refused here, with what to do about it."""

import dataclasses
from collections.abc import Iterator

from beeyard_core import limits
from beeyard_core.backpressure import NoRoom, Overflow, room_for
from beeyard_core.deadline import earliest_end_ms
from beeyard_core.fleet import CachedModel
from beeyard_core.ids import ModelName, PoolId
from beeyard_core.job import Job, JobSpec, Priority
from beeyard_core.placement import (
    CLOSENESS,
    Exclusion,
    incompatibility,
    offering_of_model,
    worker_mismatch,
)
from beeyard_core.refusal import Refusal, Refused
from beeyard_core.state import QueenState

_MODELS_NAMED_MAX = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Admitted:
    """A job that may wait.

    Attributes:
        spec: It, with its model resolved.
        dropped: A waiting job that must make way for it; None: there is room.
    """

    spec: JobSpec
    dropped: Job | None


def admit(state: QueenState, spec: JobSpec) -> Admitted | Refused:
    """Return the job with its model resolved, or why it is refused."""
    if state.is_draining:
        return Refused(
            reason=Refusal.DRAINING,
            message="the queen is shutting down; send the request again in a moment",
            retry_after_ms=limits.RECONNECT_MAX_MS,
        )
    model = _resolve(state, spec.model)
    if isinstance(model, Refused):
        return model
    resolved = spec if model == spec.model else spec._replace(model=model)
    room = room_for(state.queue, state.settings.queue, resolved.priority)
    if isinstance(room, NoRoom):
        return _queue_full(state, resolved, room)
    return (
        _impossible(state, resolved)
        or _too_late(state, resolved)
        # Last, since it charges the tenant.
        or state.quotas.admit_job(resolved, state.settings.quotas, state.fleet, state.now_ms)
        or Admitted(resolved, room)
    )


def _queue_full(state: QueenState, spec: JobSpec, room: NoRoom) -> Refused:
    """Say when there is room again, and how far away the job would have been."""
    ahead = state.queue.ahead_of_new(spec.priority)
    start_ms = state.forecast.start_ms(spec.model, ahead, state.fleet)
    jobs = f"{spec.priority.name} jobs" if room.of_class else "jobs"
    return Refused(
        reason=Refusal.QUEUE_FULL_REJECT,
        message=f"{room.depth} {jobs} wait already; send the request again later",
        retry_after_ms=state.forecast.retry_after_ms(spec.model, room.depth, state.fleet),
        metadata={
            "policy_label": room.label,
            "queue_position": str(ahead),
            "queue_eta_ms": str(start_ms),
        },
    )


def _too_late(state: QueenState, spec: JobSpec) -> Refused | None:
    """Return why a job that has a deadline would only wait for it to pass; None if it may be met, or nobody knows."""
    if spec.deadline_ms is None:
        return None
    earliest_ms = earliest_end_ms(state.forecast, spec, state.fleet)
    if earliest_ms is None or earliest_ms <= spec.deadline_ms:
        return None
    ahead = sum(state.queue.depth(other) for other in Priority if other < spec.priority)
    prediction = state.forecast.predict(spec.model, ahead, spec, state.fleet)
    assert prediction is not None, "what has an earliest end has an end"
    end_ms = max(prediction.end_ms, earliest_ms)
    return Refused(
        reason=Refusal.DEADLINE_UNMET,
        message=f"the job would end in about {end_ms} ms and hardly within {spec.deadline_ms} ms",
        field="deadline_ms",
        metadata={
            "deadline_ms": str(spec.deadline_ms),
            "predicted_start_ms": str(prediction.start_ms),
            "predicted_end_ms": str(end_ms),
            "earliest_end_ms": str(earliest_ms),
        },
    )


def dropped(state: QueenState, job: Job) -> Refused:
    """Say why a job that was accepted makes way, and when to send it again."""
    model = job.spec.model
    return Refused(
        reason=Refusal.QUEUE_FULL_DROP_LRU,
        message="the queue was full and this job made way for more urgent work; send it again later",
        retry_after_ms=state.forecast.retry_after_ms(model, len(state.queue), state.fleet),
        metadata={"policy_label": Overflow.DROP_LRU.value},
    )


def _resolve(state: QueenState, model: ModelName) -> ModelName | Refused:
    """Find the model that a job means."""
    if model in state.fleet.known_models:
        return model
    known = sorted(state.fleet.known_models)
    named = ", ".join(known[:_MODELS_NAMED_MAX])
    if not known:
        return Refused(
            reason=Refusal.NO_WORKERS_AVAILABLE,
            message="no worker and no pool manager is connected to the queen; start one and try again",
            retry_after_ms=limits.RECONNECT_MAX_MS,
        )
    if model:
        return Refused(
            reason=Refusal.MODEL_NOT_FOUND,
            message=f"there is no such model; known models: {named}",
            field="model",
            metadata={"known_models": named},
        )
    chosen = state.settings.default_model or (known[0] if len(known) == 1 else ModelName(""))
    if chosen in state.fleet.known_models:
        return chosen
    return Refused(
        reason=Refusal.INVALID_REQUEST,
        message=f"name a model; known models: {named}",
        field="model",
        metadata={"known_models": named},
    )


def _impossible(state: QueenState, spec: JobSpec) -> Refused | None:
    """Return why nothing in the present fleet could ever run the job; None if something could, or nothing is there now.

    A model that is known but that nobody offers at the moment is not impossible: its jobs wait for its return.
    """
    if state.is_given_up(spec.model):
        return load_failed(state.failures[spec.model].message)
    closest: Exclusion | None = None
    for found in _mismatches(state, spec):
        if found is None:
            return None
        closest = found if closest is None else min(found, closest, key=_distance)
    if closest is not None:
        return Refused(
            reason=closest.reason,
            message=f"nothing in the fleet can run this job: the closest {closest.detail}",
            metadata={"closest": closest.detail},
        )
    return None if spec.model in state.fleet.by_model else _unloadable(state, spec.model)


def _distance(exclusion: Exclusion) -> tuple[int, str]:
    """How far an offering was from being compatible; by its words where that is the same, since sets have no order."""
    return -CLOSENESS[exclusion.reason], exclusion.detail


def load_failed(message: str) -> Refused:
    """Refuse a job whose model cannot be loaded; `message` is the last failure in an operator's words."""
    return Refused(
        reason=Refusal.MODEL_LOAD_FAILED,
        message=f"the model cannot be loaded: {message or 'the worker exited while loading it'}",
    )


def _mismatches(state: QueenState, spec: JobSpec) -> Iterator[Exclusion | None]:
    """Why each thing that serves the model, or could be started to serve it, cannot take the job; None: it can."""
    fleet, model = state.fleet, spec.model
    for worker_id in fleet.by_model.get(model, ()):
        if fleet.workers[worker_id].report.slots_total > 0:
            yield worker_mismatch(spec, fleet, fleet.workers[worker_id])
    for pool_id, cached in _cached(state, model):
        if cached.fault:
            continue
        for device in fleet.pools[pool_id].report.devices:
            if cached.required_bytes <= device.vram_total_bytes:
                yield incompatibility(spec, offering_of_model(pool_id, cached, device))


def _cached(state: QueenState, model: ModelName) -> Iterator[tuple[PoolId, CachedModel]]:
    """Every pool that lists the model."""
    for pool_id, pool in state.fleet.pools.items():
        for cached in pool.report.models:
            if cached.model == model:
                yield pool_id, cached


def _unloadable(state: QueenState, model: ModelName) -> Refused | None:
    """Return why the pools that list the model cannot load it, or None if no pool lists it now."""
    for pool_id, cached in _cached(state, model):
        if cached.fault:
            return load_failed(cached.fault)
        best = max(
            (d.vram_total_bytes for d in state.fleet.pools[pool_id].report.devices), default=0
        )
        return Refused(
            reason=Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM,
            message=f"the model needs {cached.required_bytes} bytes, the largest device has {best}",
            metadata={"needed_bytes": str(cached.required_bytes), "available_bytes": str(best)},
        )
    return None
