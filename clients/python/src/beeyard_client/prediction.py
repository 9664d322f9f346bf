"""When a job is expected to start and to end, as a client is told it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedMoment:
    """In milliseconds; it comes earlier than `low_ms` once in twenty times, later than `high_ms` as often."""

    low_ms: int
    middle_ms: int
    high_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """When the first attempt is leased, and when the whole answer is there."""

    start: PredictedMoment
    end: PredictedMoment
