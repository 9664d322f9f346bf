"""How good the predictions were: what was said held against what came, level by level.

A prediction is right if what comes falls below its lowest moment once in twenty times, below its middle every other
time, and so on. Many jobs start at once because a slot is free; whoever says "at once" of them is always right, and
would make everything else look better than it is, so starts are scored only where a job had to wait.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from beeyard_core.history import NEVER, JobRecord
from beeyard_core.job import JobState
from beeyard_core.prediction import LEVELS, Moments
from beeyard_core.sketch import Tally


@dataclass(slots=True)
class Score:
    """Predictions of one kind, held against what came.

    Attributes:
        n: How many.
        inside: How many fell between the lowest and the highest moment.
        below: How many came no later than the moment of each of `LEVELS`.
        width: How far the lowest and the highest moment are apart, in milliseconds.
        error: How far the middle was off, in milliseconds, whichever way.
    """

    n: int = 0
    inside: int = 0
    below: list[int] = field(default_factory=lambda: [0] * len(LEVELS))
    width: Tally = field(default_factory=Tally)
    error: Tally = field(default_factory=Tally)

    @property
    def coverage(self) -> float | None:
        """The share that fell inside; None if there were none."""
        return self.inside / self.n if self.n else None

    def shares(self) -> tuple[float, ...]:
        """The share that came no later than the moment of each level; nothing if there were none."""
        return tuple(below / self.n for below in self.below) if self.n else ()

    def add(self, moments: Moments, came_ms: int) -> None:
        """Count one prediction and what came."""
        self.n += 1
        self.inside += moments[0] <= came_ms <= moments[-1]
        for index, moment in enumerate(moments):
            self.below[index] += came_ms <= moment
        self.width.add(moments[-1] - moments[0])
        self.error.add(abs(came_ms - moments[len(moments) // 2]))


@dataclass(slots=True)
class Calibration:
    """Starts and ends.

    Attributes:
        start: Of jobs that had to wait.
        end: Of jobs that completed.
        waited_end: Of those of them that had to wait.
        unpredicted: Jobs that completed without a prediction.
    """

    start: Score = field(default_factory=Score)
    end: Score = field(default_factory=Score)
    waited_end: Score = field(default_factory=Score)
    unpredicted: int = 0

    def add(self, record: JobRecord) -> None:
        """Hold one job against its prediction. One that did not complete has no end that could have been foretold."""
        if record.state is not JobState.COMPLETED:
            return
        if record.estimate is None:
            self.unpredicted += 1
            return
        prediction = record.estimate.prediction
        self.end.add(prediction.end, record.total_ms)
        if not record.estimate.is_immediate:
            self.waited_end.add(prediction.end, record.total_ms)
            if record.wait_ms != NEVER:
                self.start.add(prediction.start, record.wait_ms)


def calibration_of(records: Iterable[JobRecord]) -> Calibration:
    """Return how good the predictions of some jobs were."""
    calibration = Calibration()
    for record in records:
        calibration.add(record)
    return calibration
