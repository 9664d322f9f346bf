"""What stores remember of what has ended: the port that looks it up, and how a prediction is written down."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from beeyard_core import history_limits
from beeyard_core.history import JobRecord, LeaseRecord
from beeyard_core.prediction import LEVELS, Estimate, Figure, Moments, Prediction

_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryFilter:
    """Which records to return: all given conditions hold. The newest end first.

    Attributes:
        since_ms: Ended at that wall time or later.
        until_ms: Ended before that wall time; 0: up to now.
        job_id: Of leases only: those of one job.
    """

    tenant_id: str = ""
    model: str = ""
    since_ms: int = 0
    until_ms: int = 0
    job_id: str = ""
    limit: int = history_limits.HISTORY_READ_ROWS_MAX


class HistoryReader(Protocol):
    """Looks up what has ended. May be called concurrently, also while a commit runs."""

    async def job_records(self, history_filter: HistoryFilter) -> Sequence[JobRecord]:
        """Return at most `limit` ended jobs that match, the newest first."""
        ...

    async def lease_records(self, history_filter: HistoryFilter) -> Sequence[LeaseRecord]:
        """Return at most `limit` ended leases that match, the newest first; a tenant is not known of leases."""
        ...


def estimate_text(estimate: Estimate | None) -> str:
    """Return a prediction with the figures behind it as JSON; empty if there is none."""
    if estimate is None:
        return ""
    return _encode(
        {
            "levels": LEVELS,
            "start": estimate.prediction.start,
            "end": estimate.prediction.end,
            "figures": [*estimate.start, *estimate.end],
            "at_once": estimate.is_immediate,
        }
    )


def estimate_of(text: str) -> Estimate | None:
    """Return what `estimate_text` wrote; None where nothing was, or other levels than today's."""
    kept = json.loads(text) if text else {}
    if tuple(kept.get("levels", ())) != LEVELS:
        return None
    start_middle, start_spread, end_middle, end_spread = map(float, kept["figures"])
    return Estimate(
        start=Figure(start_middle, start_spread),
        end=Figure(end_middle, end_spread),
        is_immediate=bool(kept["at_once"]),
        prediction=Prediction(_moments(kept["start"]), _moments(kept["end"])),
    )


def _moments(kept: Sequence[int]) -> Moments:
    first, second, third, fourth, fifth = map(int, kept)
    return first, second, third, fourth, fifth
