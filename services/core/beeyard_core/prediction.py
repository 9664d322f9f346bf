"""When a job is expected to start and to end: not one moment, but the moments that it is to meet with given chances."""

from typing import Final, NamedTuple

#: The chances, in order: a job starts (ends) before the first moment once in twenty times, before the last but once.
LEVELS: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
#: How often the whole interval is meant to hold what comes.
COVERAGE: Final = LEVELS[-1] - LEVELS[0]

#: One moment a level, in milliseconds, none earlier than the one before.
Moments = tuple[int, int, int, int, int]


class Prediction(NamedTuple):
    """What was predicted of one job, in milliseconds from when it was predicted.

    Attributes:
        start: When its first attempt is leased.
        end: When it has its whole answer.
    """

    start: Moments
    end: Moments

    @property
    def start_ms(self) -> int:
        """The start that is as likely too early as too late."""
        return self.start[2]

    @property
    def end_ms(self) -> int:
        """The end that is as likely too early as too late."""
        return self.end[2]


class Figure(NamedTuple):
    """What is expected of one moment before it is known how wrong such figures have been: its middle and its spread."""

    middle_ms: float
    spread_ms: float

    def at(self, score: float) -> int:
        """Return the moment that lies so many spreads behind the middle, never before now."""
        return max(round(self.middle_ms + score * self.spread_ms), 0)

    def score(self, actual_ms: float) -> float:
        """Return by how many spreads the figure was wrong; positive: it came later."""
        return (actual_ms - self.middle_ms) / self.spread_ms


class Estimate(NamedTuple):
    """The figures behind a prediction, kept with the job so that its outcome can be held against them.

    Attributes:
        is_immediate: A slot was free for the job, so that it did not have to wait.
        prediction: What was said, with the corrections of that moment.
    """

    start: Figure
    end: Figure
    is_immediate: bool
    prediction: Prediction

    @property
    def service_ms(self) -> int:
        """What the job was expected to need of a slot."""
        return max(round(self.end.middle_ms - self.start.middle_ms), 1)
