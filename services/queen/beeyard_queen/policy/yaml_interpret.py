"""Decides by the rules of a YAML policy directly, without Lua: what a policy means, in the fewest words.

It is the oracle of the compiler, and it answers `policy compile --explain`. It walks every job and every worker, which
is why the queen runs the compiled text instead.
"""

from collections.abc import Callable
from dataclasses import dataclass

from beeyard_core.policy.world import RANK, GpuRow, JobRow, RunningRow, WorkerRow, World

from beeyard_queen.policy.yaml_compile import NO_RULE, REASON
from beeyard_queen.policy.yaml_fields import Field, Subject
from beeyard_queen.policy.yaml_fit import (
    candidates,
    distance_km,
    fits_after,
    is_healthy,
    is_idle,
    model_of,
)
from beeyard_queen.policy.yaml_patterns import Pattern
from beeyard_queen.policy.yaml_rules import (
    Action,
    All,
    Always,
    Any,
    Condition,
    Dispatch,
    Evict,
    Not,
    Policy,
    Preempt,
    Reject,
    Rule,
    StartWorker,
    Test,
    UsePlatform,
    Wait,
)

#: A decision as it crosses the border.
Decision = dict[str, str | int | dict[str, str]]
_Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy decides.

    Attributes:
        rule: The rule that decided; None: none applied.
        decision: What it decided; None: the platform policy decides.
    """

    rule: Rule | None
    decision: Decision | None


@dataclass(frozen=True, slots=True)
class _Moment:
    world: World
    now_ms: int
    queue: tuple[JobRow, ...]


def interpret(policy: Policy, world: World, now_ms: int) -> Verdict:
    """Return what a policy decides.

    Args:
        policy: The rules.
        world: What there is.
        now_ms: The instant of the decision, on the clock of the world's times.
    """
    queue = sorted(world.jobs.values(), key=lambda job: (RANK[job.priority], job.seq))
    moment = _Moment(world, now_ms, tuple(queue))
    for rule in policy.rules:
        for job in moment.queue if rule.needs_job else (None,):
            if _holds(rule.condition, moment, job):
                if isinstance(rule.action, UsePlatform):
                    return Verdict(rule, None)
                if decision := _act(rule.action, REASON.format(name=rule.name), moment, job):
                    return Verdict(rule, decision)
    return Verdict(None, {"action": "wait", "reason": NO_RULE})


def _holds(condition: Condition, moment: _Moment, job: JobRow | None) -> bool:
    match condition:
        case Always():
            return True
        case All(parts=parts):
            return all(_holds(part, moment, job) for part in parts)
        case Any(parts=parts):
            return any(_holds(part, moment, job) for part in parts)
        case Not(part=part):
            return not _holds(part, moment, job)
        case Test():
            return _compare(condition, _value(condition.field, moment, job))


def _compare(test: Test, value: str | float | _Place | None) -> bool:
    match test.operator, test.operand:
        case "exists", wanted:
            return (value is not None) == wanted
        case "eq", operand:
            return value == operand
        case "ne", operand:
            return value != operand
        case "in", tuple(operands):
            return value in operands
        case "not_in", tuple(operands):
            return value not in operands
        case "contains", str(part):
            return isinstance(value, str) and part in value
        case "starts_with", str(start):
            return isinstance(value, str) and value.startswith(start)
        case "matches", Pattern() as pattern:
            return isinstance(value, str) and pattern.matches(value)
        case operator, (int() | float()) as operand:
            return isinstance(value, int | float) and _ORDERED[operator](value, operand)
        case operator, _:
            raise AssertionError(f"{operator} got past the schema")


_ORDERED: dict[str, Callable[[float, float], bool]] = {
    "gt": lambda value, operand: value > operand,
    "gte": lambda value, operand: value >= operand,
    "lt": lambda value, operand: value < operand,
    "lte": lambda value, operand: value <= operand,
}


def _value(field: Field, moment: _Moment, job: JobRow | None) -> str | float | _Place | None:
    """Return a field's value; None if it is absent. An empty text is absent."""
    if field.subject is Subject.METRICS:
        return _metric(moment.world, field.path)
    assert job is not None
    if field.subject is Subject.TENANT:
        tenant = moment.world.tenants.get(job.tenant_id)
        name = "tenant_id" if field.path == "id" else field.path
        found: str | float | None = None if tenant is None else getattr(tenant, name)
        return found
    if field.path.startswith("labels."):
        return dict(job.labels).get(field.path.removeprefix("labels.")) or None
    match field.path:
        case "id":
            return job.job_id
        case "wait_time_ms":
            return max(moment.now_ms - job.queued_at, 0)
        case "deadline_ms":
            return None if job.deadline_at is None else job.deadline_at - job.created_at
        case "user.geo":
            return _place(job)
        case path:
            value: str | float | None = getattr(job, path)
            return None if value == "" else value


def _metric(world: World, name: str) -> float:
    if name in world.metrics:
        return world.metrics[name]
    busy = [worker for worker in world.workers.values() if worker.slots_free < worker.slots_total]
    counted = {
        "queue_depth": len(world.jobs),
        "total_workers": len(world.workers),
        "busy_workers": len(busy),
    }
    return counted[name]


def _place(row: JobRow | WorkerRow) -> _Place | None:
    return None if row.geo_lat is None or row.geo_lon is None else (row.geo_lat, row.geo_lon)


def _act(action: Action, reason: str, moment: _Moment, job: JobRow | None) -> Decision | None:
    """Return the decision of an action, or None if it cannot be done."""
    match action:
        case Wait(duration_ms=duration_ms):
            return {"action": "wait", "retry_after_ms": duration_ms, "reason": reason}
        case Evict():
            return _evict(action, reason, moment.world)
        case StartWorker():
            return _start(action, reason, moment, job)
        case Reject(reason=why) if job is not None:
            return {"action": "reject", "job_id": job.job_id, "reason": why}
        case Dispatch() if job is not None:
            return _dispatch(action, reason, moment, job)
        case Preempt(below=below) if job is not None:
            victim = _victim(moment.world, job, below)
            if victim is None:
                return None
            return {
                "action": "preempt",
                "job_id": victim.job_id,
                "for_job_id": job.job_id,
                "reason": reason,
            }
        case _:
            raise AssertionError(f"{action} needs a job")


def _dispatch(action: Dispatch, reason: str, moment: _Moment, job: JobRow) -> Decision | None:
    found = candidates(moment.world, job)
    if found:
        worker = _select(action.selection, found, moment.world, job)
        return {
            "action": "dispatch",
            "job_id": job.job_id,
            "worker_id": worker.worker_id,
            "reason": reason,
        }
    if action.is_model_required:
        return None
    return _start(StartWorker("most-vram-free", None, None), reason, moment, job)


def _lightest(workers: list[WorkerRow]) -> WorkerRow:
    return min(workers, key=lambda worker: (worker.load, -worker.vram_free, worker.worker_id))


def _select(selection: str, workers: list[WorkerRow], world: World, job: JobRow) -> WorkerRow:
    """Return the worker that a selection chooses; `workers` come in the order of their ids, and ties fall to it."""
    match selection:
        case "least-loaded":
            return _lightest(workers)
        case "most-vram-free":
            return min(workers, key=lambda worker: (-worker.vram_free, worker.load))
        case "round-robin":
            return min(workers, key=lambda worker: worker.last_used_at)
        case "first":
            return workers[0]
        case "lowest-cost":
            return min(workers, key=lambda worker: worker.cost_per_token)
        case "fastest":
            return max(workers, key=lambda worker: worker.tokens_per_s)
        case "nearest":
            return _nearest(workers, _place(job))
        case "prefix-affinity":
            held = {worker.worker_id: _cached_tokens(world, worker, job) for worker in workers}
            best = max(workers, key=lambda worker: held[worker.worker_id])
            return best if held[best.worker_id] > 0 else _lightest(workers)
        case _:
            raise AssertionError(f"{selection} got past the schema")


def _nearest(workers: list[WorkerRow], here: _Place | None) -> WorkerRow:
    placed = [
        (distance_km(here, there), worker.worker_id, worker)
        for worker in workers
        if here is not None and (there := _place(worker)) is not None
    ]
    return min(placed)[2] if placed else _lightest(workers)


def _cached_tokens(world: World, worker: WorkerRow, job: JobRow) -> int:
    row = world.prefixes.get((worker.worker_id, job.prompt_hash))
    return 0 if row is None else min(row.tokens, job.prompt_tokens)


def _start(
    action: StartWorker, reason: str, moment: _Moment, job: JobRow | None
) -> Decision | None:
    world = moment.world
    asked = action.model_ref or (job.model_ref if job else "")
    model = model_of(world, asked)
    for worker in world.workers.values():
        if worker.model_ref != model:
            continue
        if worker.status == "starting" or (
            worker.slots_free > 0 and worker.status in {"ready", "busy"}
        ):
            return None
    known = world.models.get(model)
    need = known.vram_required if known else 0
    gpus = [
        gpu
        for gpu in sorted(world.gpus.values(), key=lambda gpu: (gpu.pool_id, f"{gpu.gpu_id:>20}"))
        if action.pool_id in {None, gpu.pool_id}
        and is_healthy(world, gpu.pool_id, moment.now_ms)
        and gpu.vram_free >= need
    ]
    if not gpus:
        return None
    gpu = _GPUS[action.gpu_selection](gpus)
    start = {"model_ref": asked, "pool_id": gpu.pool_id, "gpu_id": gpu.gpu_id}
    return {"action": "start_worker", "start_worker": start, "reason": reason}


_GPUS: dict[str, Callable[[list[GpuRow]], GpuRow]] = {
    "most-vram-free": lambda gpus: max(gpus, key=lambda gpu: gpu.vram_free),
    "least-utilized": lambda gpus: min(gpus, key=lambda gpu: gpu.utilization),
    "first": lambda gpus: gpus[0],
}


def _evict(action: Evict, reason: str, world: World) -> Decision | None:
    idle = [worker for worker in world.workers.values() if is_idle(world, worker)]
    if action.worker_id is not None:
        idle = [worker for worker in idle if worker.worker_id == action.worker_id]
    if not idle:
        return None
    if action.selection == "lfu":
        worker = min(idle, key=lambda row: (row.jobs_served, row.last_used_at, row.worker_id))
    else:
        worker = min(idle, key=lambda row: (row.last_used_at, row.worker_id))
    return {"action": "evict", "evict_worker_id": worker.worker_id, "reason": reason}


def _victim(world: World, job: JobRow, below: str) -> RunningRow | None:
    if candidates(world, job):
        return None
    victims = [
        row
        for row in world.running.values()
        if RANK[row.priority] > max(RANK[below], RANK[job.priority])
        and not (row.is_stopping or row.is_kept)
        and fits_after(world, job, row)
    ]
    if not victims:
        return None
    return min(victims, key=lambda row: (-RANK[row.priority], -row.started_at, row.job_id))
