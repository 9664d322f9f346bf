"""What a simulation tells, as the messages of `SimulatePolicy`."""

from collections.abc import Iterator
from typing import Any

from beeyard.queen.v1 import job_pb2
from beeyard.queen.v1 import policy_service_pb2 as pb

from beeyard_queen.simulator.request import Progressed, Reported

_Plain = dict[str, Any]


def wire_progress_of(told: Progressed) -> pb.SimulatePolicyResponse:
    """Return how far a simulation is, as it is sent."""
    progress = pb.SimulationProgress(
        jobs_ended=told.ended, jobs_total=told.total, virtual_ms=told.virtual_ms
    )
    return pb.SimulatePolicyResponse(progress=progress)


def wire_report_of(told: Reported, notes: list[str]) -> pb.SimulatePolicyResponse:
    """Return what a simulation found, as it is sent."""
    report, measured = told.report, told.measured
    everything = report["everything"]
    wire = pb.SimulationReport(
        jobs_completed=everything["completed"],
        jobs_refused=everything["refused"],
        jobs_failed=everything["failed"] + everything["expired"] + everything["cancelled"],
        jobs_unfinished=everything["unfinished"],
        virtual_ms=report["virtual_ms"],
        wall_ms=round(measured["wall_s"] * 1_000),
        queue_wait=_summary(everything["wait"]),
        first_token=_summary(everything["first_token"]),
        total=_summary(everything["total"]),
        utilization=report["utilization"],
        fairness=report["fairness"],
        deadlines_met=everything["deadlines_met"],
        decisions=sum(report["decisions"].values()),
        decisions_by_action=report["decisions"],
        fallbacks=sum(report["fallbacks"].values()),
        fallbacks_by_outcome=report["fallbacks"],
        intents_refused=sum(report["dropped"].values()),
        intents_refused_by_reason=report["dropped"],
        groups=_groups(report),
        evictions=report["evictions"],
        preemptions=report["preemptions"],
        worker_starts=report["worker_starts"],
        suspension=report["suspension"],
        decision_us_p50=measured["decision_us_p50"],
        decision_us_p99=measured["decision_us_p99"],
        digest=report["digest"],
        policy=report["policy"],
        notes=notes,
    )
    return pb.SimulatePolicyResponse(report=wire)


def _groups(report: _Plain) -> Iterator[pb.SimulationGroup]:
    for name, group in report["classes"].items():
        priority = job_pb2.Priority.Value(f"PRIORITY_{name.upper()}")
        yield _group(group, pb.SimulationGroup(priority=priority))
    for name, group in report["tenants"].items():
        yield _group(group, pb.SimulationGroup(tenant_id=name))
    for name, group in report["models"].items():
        yield _group(group, pb.SimulationGroup(model=name))


def _group(group: _Plain, wire: pb.SimulationGroup) -> pb.SimulationGroup:
    wire.MergeFrom(
        pb.SimulationGroup(
            jobs=group["jobs"],
            jobs_completed=group["completed"],
            queue_wait=_summary(group["wait"]),
            first_token=_summary(group["first_token"]),
            total=_summary(group["total"]),
            deadlines_met=group["deadlines_met"],
        )
    )
    return wire


def _summary(summary: _Plain) -> pb.LatencySummary:
    return pb.LatencySummary(
        mean_ms=summary["mean_ms"],
        p50_ms=summary["p50_ms"],
        p90_ms=summary["p90_ms"],
        p95_ms=summary["p95_ms"],
        p99_ms=summary["p99_ms"],
        max_ms=summary["max_ms"],
    )
