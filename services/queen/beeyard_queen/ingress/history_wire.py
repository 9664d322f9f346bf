"""Between the messages about what has ended, and about what would help, and the core's values."""

from collections.abc import Sequence
from typing import Final

from beeyard.queen.v1 import history_service_pb2 as pb
from beeyard.queen.v1 import inference_service_pb2 as inference_pb
from beeyard.queen.v1 import job_pb2
from beeyard_core.calibration import Calibration, Score
from beeyard_core.history import LeaseRecord
from beeyard_core.prediction import COVERAGE, LEVELS, Moments, Prediction
from beeyard_core.remedy import Remedy, RemedyKind
from beeyard_core.sketch import Tally
from beeyard_core.statistics import GroupBy, JobGroup, JobStatistics
from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from google.protobuf.timestamp_pb2 import Timestamp

GROUPINGS: Final[dict[int, GroupBy]] = {
    pb.GROUP_BY_UNSPECIFIED: GroupBy.TENANT,
    pb.GROUP_BY_TENANT: GroupBy.TENANT,
    pb.GROUP_BY_MODEL: GroupBy.MODEL,
    pb.GROUP_BY_PRIORITY: GroupBy.PRIORITY,
    pb.GROUP_BY_WORKER: GroupBy.WORKER,
    pb.GROUP_BY_DEVICE: GroupBy.DEVICE,
}
_GIB: Final = 1 << 30


def prediction_message(prediction: Prediction) -> job_pb2.JobPrediction:
    """Return a prediction as clients see it."""
    return job_pb2.JobPrediction(start=_moment(prediction.start), end=_moment(prediction.end))


def _moment(moments: Moments) -> job_pb2.PredictedMoment:
    return job_pb2.PredictedMoment(
        low_ms=moments[0], middle_ms=moments[len(moments) // 2], high_ms=moments[-1]
    )


# --- What would help ---


def remedy_message(remedy: Remedy) -> inference_pb.Remedy:
    """Return a remedy as clients see it; the numbers of the kinds are the same."""
    return inference_pb.Remedy(
        kind=inference_pb.Remedy.Kind.Name(remedy.kind),  # type: ignore[arg-type]  # names are values, too
        amount=remedy.amount,
        target_id=remedy.target_id,
        pool_id=remedy.pool_id,
        demand=remedy.demand,
        message=remedy_text(remedy),
    )


def remedy_text(remedy: Remedy) -> str:
    """Return a remedy as what follows "if"."""
    worker, amount = f"worker {remedy.target_id}", remedy.amount
    device = f"device {remedy.target_id} of {remedy.pool_id}"
    slots = "one slot" if amount == 1 else f"{amount} slots"
    return {
        RemedyKind.REPORT: f"{worker} and its host were heard of again",
        RemedyKind.LOADED: f"{worker} had loaded its model",
        RemedyKind.SLOTS: f"{worker} had {slots} more",
        RemedyKind.KV_TOKENS: f"{worker} had {amount} KV tokens more free",
        RemedyKind.GATE: f"the host of {worker} were less busy",
        RemedyKind.UNDRAIN: f"{worker} took new work",
        RemedyKind.WORKER: f"a worker were started on {device}, which has room for it",
        RemedyKind.FEWER_TOKENS: f"it asked for {amount} tokens less, for {worker}",
        RemedyKind.DEMAND: f"it did without {remedy.demand}, on {worker}",
        RemedyKind.VRAM: f"{device} had {amount / _GIB:.1f} GiB more free, for a worker there",
        RemedyKind.LATER: f"{amount / 1_000:g} s more pass, after which {worker} should take it",
        RemedyKind.EARLIER: f"it had come {amount / 1_000:g} s earlier, when {worker} had a slot free",
    }[remedy.kind]


def add_lease(
    leases: "RepeatedCompositeFieldContainer[inference_pb.LeaseRecord]", record: LeaseRecord
) -> None:
    """Add a lease that has ended."""
    leases.add(
        lease_id=record.lease_id,
        worker_id=record.worker_id,
        pool_id=record.pool_id,
        attempt=record.attempt,
        ending=record.ending.value,
        was_revoked=record.was_revoked,
        lease_time=_timestamp(record.leased_ms),
        end_time=_timestamp(record.ended_ms),
    )


def _timestamp(wall_ms: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMilliseconds(wall_ms)
    return stamp


# --- Statistics ---


def statistics_message(
    statistics: JobStatistics, *, is_truncated: bool, oldest_ms: int | None
) -> pb.JobStatistics:
    """Return statistics as clients see them, the largest group first."""
    by_size = sorted(statistics.groups.items(), key=lambda item: (-item[1].jobs, item[0]))
    message = pb.JobStatistics(
        everything=_group("", statistics.everything),
        groups=[_group(name, group) for name, group in by_size],
        is_truncated=is_truncated,
    )
    if oldest_ms is not None:
        message.oldest_end_time.CopyFrom(_timestamp(oldest_ms))
    return message


def _group(name: str, group: JobGroup) -> pb.JobGroup:
    return pb.JobGroup(
        name=name,
        jobs=group.jobs,
        completed=group.completed,
        failed=group.failed,
        expired=group.expired,
        cancelled=group.cancelled,
        success_rate=group.success_rate,
        attempts=group.attempts,
        preemptions=group.preemptions,
        tokens=group.tokens,
        wait=_spans(group.wait),
        first_token=_spans(group.first_token),
        total=_spans(group.total),
    )


def _spans(tally: Tally) -> pb.Spans:
    return pb.Spans(
        n=tally.n,
        mean_ms=tally.mean,
        p50_ms=_milliseconds(tally, 0.5),
        p95_ms=_milliseconds(tally, 0.95),
        p99_ms=_milliseconds(tally, 0.99),
    )


def _milliseconds(tally: Tally, share: float) -> float:
    """A quantile; what took no time at all stands in the lowest bucket, whose middle is not 0."""
    return round(tally.quantile(share), 1)


# --- Calibration ---


def report_message(calibration: Calibration, *, is_truncated: bool) -> pb.ForecastReport:
    """Return how good predictions were as clients see it."""
    return pb.ForecastReport(
        promised_coverage=round(COVERAGE, 6),
        levels=LEVELS,
        end=_score(calibration.end),
        waited_end=_score(calibration.waited_end),
        start=_score(calibration.start),
        unpredicted=calibration.unpredicted,
        is_truncated=is_truncated,
    )


def _score(score: Score) -> pb.ForecastScore:
    shares: Sequence[float] = score.shares()
    return pb.ForecastScore(
        n=score.n,
        coverage=score.coverage,
        shares=shares,
        width_p50_ms=_milliseconds(score.width, 0.5),
        error_p50_ms=_milliseconds(score.error, 0.5),
        error_p95_ms=_milliseconds(score.error, 0.95),
    )
