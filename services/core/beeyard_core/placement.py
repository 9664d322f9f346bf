"""Whether a worker can take a job, with a reason for every exclusion.

What a policy wants is held against this before it counts (`policy/apply.py`), and `ExplainJob` shows it.
"""

from dataclasses import dataclass
from typing import Final

from beeyard_core.fleet import SERVING, CachedModel, Device, Fleet, Worker, WorkerState
from beeyard_core.ids import PoolId
from beeyard_core.job import JobSpec
from beeyard_core.refusal import Refusal

#: The lasting constraints in the order in which they are checked: what failed a later one came closer.
CLOSENESS: Final = {
    Refusal.NO_CAPACITY_INCOMPATIBLE_MODEL: 0,
    Refusal.NO_CAPACITY_INCOMPATIBLE_ENGINE: 1,
    Refusal.NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK: 2,
    Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM: 3,
    Refusal.NO_CAPACITY_INCOMPATIBLE_QUANTIZATION: 4,
    Refusal.NO_CAPACITY_INCOMPATIBLE_COMPUTE_CAPABILITY: 5,
    Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT: 6,
}


@dataclass(frozen=True, slots=True)
class Exclusion:
    """The first constraint that kept a candidate from taking a job, and in words what was needed and what there is."""

    reason: Refusal
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Offering:
    """What a worker, or a model that a host could load, offers to a job that asks for its model.

    Attributes:
        context_tokens: Longest prompt plus answer; 0: unknown, which excludes nothing.
        extensions: What it can do beyond generating; of a model that nobody loaded, nothing is known.
        kv_tokens: KV memory that all its slots share; 0: unknown, which excludes nothing.
        device: The device it runs on; None: unknown.
    """

    pool_id: PoolId
    engine: str
    quantization: str
    context_tokens: int
    device: Device | None
    kv_tokens: int = 0
    extensions: frozenset[str] = frozenset()


def offering_of_worker(fleet: Fleet, worker: Worker) -> Offering:
    """Return what a running worker offers."""
    report = worker.report
    return Offering(
        pool_id=report.pool_id,
        engine=report.engine,
        quantization=report.quantization,
        context_tokens=report.context_tokens,
        device=fleet.device_of(worker),
        kv_tokens=report.kv_tokens_total,
        extensions=report.extensions,
    )


def offering_of_model(pool_id: PoolId, model: CachedModel, device: Device) -> Offering:
    """Return what a worker of `model` on `device` would offer."""
    return Offering(
        pool_id=pool_id,
        engine=model.engine,
        quantization=model.quantization,
        context_tokens=model.context_tokens,
        device=device,
    )


def incompatibility(spec: JobSpec, offering: Offering) -> Exclusion | None:
    """Return the first lasting reason why an offering can never take a job, or None.

    The order is the order of the contract: engine and its extensions, pools, memory, quantization, compute capability,
    context and KV memory.
    """
    return (
        _engine_mismatch(spec, offering)
        or _pool_mismatch(spec, offering)
        or _device_mismatch(spec, offering)
        or _context_mismatch(spec, offering)
    )


def _engine_mismatch(spec: JobSpec, offering: Offering) -> Exclusion | None:
    if spec.engine and spec.engine != offering.engine:
        detail = f"needs engine {spec.engine}, has {offering.engine}"
        return Exclusion(Refusal.NO_CAPACITY_INCOMPATIBLE_ENGINE, detail)
    missing = [word for word in spec.requirements.extensions if word not in offering.extensions]
    if missing:
        has = " and ".join(sorted(offering.extensions)) or "none"
        detail = f"needs extension {' and '.join(missing)}, has {has}"
        return Exclusion(Refusal.NO_CAPACITY_INCOMPATIBLE_ENGINE, detail)
    return None


def _pool_mismatch(spec: JobSpec, offering: Offering) -> Exclusion | None:
    wish = spec.placement
    if wish.pin_pool_id is not None and wish.pin_pool_id != offering.pool_id:
        detail = f"pinned to pool {wish.pin_pool_id}, is in {offering.pool_id}"
        return Exclusion(Refusal.NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK, detail)
    if offering.pool_id in wish.avoid_pool_ids:
        detail = f"pool {offering.pool_id} is to be avoided"
        return Exclusion(Refusal.NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK, detail)
    return None


def _device_mismatch(spec: JobSpec, offering: Offering) -> Exclusion | None:
    need = spec.requirements
    device = offering.device
    total = device.vram_total_bytes if device else 0
    if need.min_vram_bytes > total:
        detail = f"needs a device of {need.min_vram_bytes} bytes, has {total}"
        return Exclusion(Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM, detail)
    if need.quantizations and offering.quantization not in need.quantizations:
        wanted = " or ".join(need.quantizations)
        detail = f"needs quantization {wanted}, has {offering.quantization or 'unknown'}"
        return Exclusion(Refusal.NO_CAPACITY_INCOMPATIBLE_QUANTIZATION, detail)
    has = device.compute_capability if device else None
    if need.min_compute_capability and (has is None or has < need.min_compute_capability):
        detail = (
            f"needs compute capability {_dotted(need.min_compute_capability)}, has {_dotted(has)}"
        )
        return Exclusion(Refusal.NO_CAPACITY_INCOMPATIBLE_COMPUTE_CAPABILITY, detail)
    return None


def _dotted(capability: tuple[int, int] | None) -> str:
    return "none" if capability is None else f"{capability[0]}.{capability[1]}"


def _context_mismatch(spec: JobSpec, offering: Offering) -> Exclusion | None:
    need = max(spec.kv_tokens_min, spec.requirements.min_context_tokens)
    if offering.context_tokens and need > offering.context_tokens:
        detail = f"needs a context of about {need} tokens, has {offering.context_tokens}"
        return Exclusion(Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT, detail)
    if offering.kv_tokens and spec.kv_tokens_min > offering.kv_tokens:
        detail = f"needs about {spec.kv_tokens_min} KV tokens, has {offering.kv_tokens} in all"
        return Exclusion(Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT, detail)
    return None


def unavailability(fleet: Fleet, worker: Worker, now_ms: int) -> Exclusion | None:
    """Return the first reason why a worker takes no job at all now, however empty it is, or None."""
    report = worker.report
    if worker.is_drained or report.state is WorkerState.DRAINING:
        return Exclusion(Refusal.DRAINING, "takes no new work")
    if worker.session == 0 or not fleet.is_fresh(worker, now_ms):
        return Exclusion(Refusal.POOL_UNREADY, "its reports are stale")
    if report.state not in SERVING:
        return Exclusion(Refusal.POOL_UNREADY, f"is {report.state.value}")
    if fleet.is_gated(report.pool_id):
        return Exclusion(Refusal.CAPACITY_GATED, "its host is too busy for more")
    return None


def unreadiness(spec: JobSpec, fleet: Fleet, worker: Worker, now_ms: int) -> Exclusion | None:
    """Return the first passing reason why a compatible worker cannot take the job now, or None."""
    report = worker.report
    absent = unavailability(fleet, worker, now_ms)
    if absent is not None:
        return absent
    if worker.slots_free == 0:
        return Exclusion(Refusal.WORKER_BUSY, f"all {report.slots_total} slots are taken")
    if worker.is_saturated:
        return Exclusion(Refusal.WORKER_BUSY, "refused an offer since its last heartbeat")
    # An estimate above all that there is must not wait for ever: the worker decides by the exact count.
    need = min(spec.kv_tokens, report.kv_tokens_total)
    if need > worker.kv_tokens_free:
        detail = f"needs {need} KV tokens, {worker.kv_tokens_free} are free"
        return Exclusion(Refusal.WORKER_BUSY, detail)
    return None


def exclusion(spec: JobSpec, fleet: Fleet, worker: Worker, now_ms: int) -> Exclusion | None:
    """Return the first reason why `worker` cannot take the job now, or None if it can."""
    if spec.model != worker.report.model:
        detail = f"needs model {spec.model}, holds {worker.report.model}"
        return Exclusion(Refusal.NO_CAPACITY_INCOMPATIBLE_MODEL, detail)
    return worker_mismatch(spec, fleet, worker) or unreadiness(spec, fleet, worker, now_ms)


def worker_mismatch(spec: JobSpec, fleet: Fleet, worker: Worker) -> Exclusion | None:
    """Return the first lasting reason why a worker of its model can never take a job, or None."""
    report = worker.report
    if spec.is_plain and spec.kv_tokens_min <= min(report.context_tokens, report.kv_tokens_total):
        return None
    return incompatibility(spec, offering_of_worker(fleet, worker))
