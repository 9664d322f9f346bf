"""The wire types of `SimulatePolicy` turned into the client's own, and back."""

from collections.abc import Iterable
from dataclasses import fields

from beeyard.queen.v1 import job_pb2
from beeyard.queen.v1 import policy_service_pb2 as pb

from beeyard_client.errors import invalid
from beeyard_client.simulation import (
    LatencySummary,
    SimulatedPool,
    SimulationGroup,
    SimulationProgress,
    SimulationReport,
    SyntheticLoad,
)


def load_to_wire(load: SyntheticLoad) -> pb.SyntheticLoad:
    """Return a load as it is sent.

    Raises:
        BeeyardError: `INVALID_REQUEST`, for what no message can carry.
    """
    try:
        return pb.SyntheticLoad(
            jobs=load.jobs,
            arrivals_per_s=load.arrivals_per_s,
            models=load.models,
            prompt_tokens_mean=load.prompt_tokens_mean,
            completion_tokens_mean=load.completion_tokens_mean,
            tenants=load.tenants,
            priorities=[
                pb.PriorityShare(priority=job_pb2.Priority.Value(f"PRIORITY_{name}"), weight=weight)
                for name, weight in load.priorities.items()
            ],
        )
    except ValueError as fault:
        raise invalid("synthetic", f"the load cannot be sent: {fault}") from None


def pools_to_wire(pools: Iterable[SimulatedPool]) -> list[pb.SimulatedPool]:
    """Return pools as they are sent.

    Raises:
        BeeyardError: `INVALID_REQUEST`, for what no message can carry.
    """
    try:
        return [_pool(pool) for pool in pools]
    except ValueError as fault:
        raise invalid("pools", f"a pool cannot be sent: {fault}") from None


def _pool(pool: SimulatedPool) -> pb.SimulatedPool:
    wire = pb.SimulatedPool()
    for one in fields(pool):
        if one.name != "loadable":
            setattr(wire, one.name, getattr(pool, one.name))
    for model in pool.loadable:
        added = wire.loadable.add()
        for one in fields(model):
            setattr(added, one.name, getattr(model, one.name))
    return wire


def told(wire: pb.SimulatePolicyResponse) -> SimulationProgress | SimulationReport:
    """Return what one message of a simulation says."""
    if wire.HasField("report"):
        return _report(wire.report)
    progress = wire.progress
    return SimulationProgress(progress.jobs_ended, progress.jobs_total, progress.virtual_ms)


def _report(wire: pb.SimulationReport) -> SimulationReport:
    return SimulationReport(
        policy=wire.policy,
        jobs_completed=wire.jobs_completed,
        jobs_refused=wire.jobs_refused,
        jobs_failed=wire.jobs_failed,
        jobs_unfinished=wire.jobs_unfinished,
        virtual_ms=wire.virtual_ms,
        wall_ms=wire.wall_ms,
        queue_wait=_summary(wire.queue_wait),
        first_token=_summary(wire.first_token),
        total=_summary(wire.total),
        utilization=wire.utilization,
        fairness=wire.fairness,
        deadlines_met=wire.deadlines_met if wire.HasField("deadlines_met") else None,
        groups=tuple(_group(group) for group in wire.groups),
        evictions=wire.evictions,
        preemptions=wire.preemptions,
        worker_starts=wire.worker_starts,
        decisions=dict(sorted(wire.decisions_by_action.items())),
        intents_refused=dict(sorted(wire.intents_refused_by_reason.items())),
        fallbacks=dict(sorted(wire.fallbacks_by_outcome.items())),
        suspension=wire.suspension,
        decision_us_p50=wire.decision_us_p50,
        decision_us_p99=wire.decision_us_p99,
        digest=wire.digest,
        notes=tuple(wire.notes),
    )


def _group(wire: pb.SimulationGroup) -> SimulationGroup:
    kind = wire.WhichOneof("key") or ""
    if kind == "priority":
        name = job_pb2.Priority.Name(wire.priority).removeprefix("PRIORITY_").lower()
    else:
        name = wire.tenant_id or wire.model
    return SimulationGroup(
        kind=kind,
        name=name,
        jobs=wire.jobs,
        jobs_completed=wire.jobs_completed,
        queue_wait=_summary(wire.queue_wait),
        first_token=_summary(wire.first_token),
        total=_summary(wire.total),
        deadlines_met=wire.deadlines_met if wire.HasField("deadlines_met") else None,
    )


def _summary(wire: pb.LatencySummary) -> LatencySummary:
    return LatencySummary(
        mean_ms=wire.mean_ms,
        p50_ms=wire.p50_ms,
        p90_ms=wire.p90_ms,
        p95_ms=wire.p95_ms,
        p99_ms=wire.p99_ms,
        max_ms=wire.max_ms,
    )
