"""Between the messages about what has ended and the client's values."""

from datetime import UTC, datetime

from beeyard.queen.v1 import history_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from beeyard_client.history import (
    ForecastReport,
    ForecastScore,
    GroupBy,
    JobGroup,
    JobStatistics,
    Spans,
)
from beeyard_client.prediction import PredictedMoment, Prediction


def moment_to_wire(moment: datetime | None) -> Timestamp | None:
    """Return a moment as the wire has it; one without a zone is one of UTC."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(_in_utc(moment))
    return stamp


def _in_utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def group_by_to_wire(by: GroupBy) -> "pb.GroupBy.ValueType":
    """Return what to tell jobs apart by as the wire has it."""
    return pb.GroupBy.Value(f"GROUP_BY_{by.name}")


def statistics(wire: pb.JobStatistics) -> JobStatistics:
    """Return the statistics."""
    oldest = wire.oldest_end_time
    return JobStatistics(
        everything=_group(wire.everything),
        groups=tuple(_group(one) for one in wire.groups),
        is_truncated=wire.is_truncated,
        oldest_end_time=oldest.ToDatetime(UTC) if wire.HasField("oldest_end_time") else None,
    )


def _group(wire: pb.JobGroup) -> JobGroup:
    return JobGroup(
        name=wire.name,
        jobs=wire.jobs,
        completed=wire.completed,
        failed=wire.failed,
        expired=wire.expired,
        cancelled=wire.cancelled,
        success_rate=wire.success_rate if wire.HasField("success_rate") else None,
        attempts=wire.attempts,
        preemptions=wire.preemptions,
        tokens=wire.tokens,
        wait=_spans(wire.wait),
        first_token=_spans(wire.first_token),
        total=_spans(wire.total),
    )


def _spans(wire: pb.Spans) -> Spans:
    return Spans(
        n=wire.n,
        mean_ms=wire.mean_ms,
        p50_ms=wire.p50_ms,
        p95_ms=wire.p95_ms,
        p99_ms=wire.p99_ms,
    )


def forecast_report(wire: pb.ForecastReport) -> ForecastReport:
    """Return how good the predictions were."""
    return ForecastReport(
        promised_coverage=wire.promised_coverage,
        levels=tuple(wire.levels),
        end=_score(wire.end),
        waited_end=_score(wire.waited_end),
        start=_score(wire.start),
        unpredicted=wire.unpredicted,
        is_truncated=wire.is_truncated,
    )


def _score(wire: pb.ForecastScore) -> ForecastScore:
    return ForecastScore(
        n=wire.n,
        coverage=wire.coverage if wire.HasField("coverage") else None,
        shares=tuple(wire.shares),
        width_p50_ms=wire.width_p50_ms,
        error_p50_ms=wire.error_p50_ms,
        error_p95_ms=wire.error_p95_ms,
    )


def prediction(wire: job_pb2.JobPrediction) -> Prediction:
    """Return when a job is expected to start and to end."""
    return Prediction(start=_moment(wire.start), end=_moment(wire.end))


def _moment(wire: job_pb2.PredictedMoment) -> PredictedMoment:
    return PredictedMoment(low_ms=wire.low_ms, middle_ms=wire.middle_ms, high_ms=wire.high_ms)
