"""How wrong the predictions of the last while were, and what follows for the next one.

Split conformal prediction (Vovk et al.; "locally weighted" as in Lei et al., 2018): a figure comes with a spread, an
outcome is scored by how many spreads it was off, and the quantiles of the last scores are what makes an interval of the
next figure. No shape is assumed; a figure that is always too early by half is put right as well. What it needs is that
the next job is like the last ones, which is why only so many are remembered.
"""

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field
from math import ceil
from typing import Final

from beeyard_core import history_limits
from beeyard_core.prediction import LEVELS

#: Before enough was scored: a wide bell curve, and rather too wide.
_WIDE: Final = (-2.5, -1.0, 0.0, 1.0, 2.5)


@dataclass(slots=True)
class Residuals:
    """The last scores of one kind of prediction."""

    _recent: deque[float] = field(default_factory=deque)
    _ordered: list[float] = field(default_factory=list)
    _levels: tuple[float, ...] = _WIDE
    _is_stale: bool = False

    def add(self, score: float) -> None:
        """Take in the score of one outcome; the oldest goes."""
        if len(self._recent) >= history_limits.FORECAST_SCORES_MAX:
            oldest = self._recent.popleft()
            del self._ordered[bisect_left(self._ordered, oldest)]
        self._recent.append(score)
        insort(self._ordered, score)
        self._is_stale = True

    def levels(self) -> tuple[float, ...]:
        """Return the scores that make a prediction at each of `LEVELS`, in order."""
        if self._is_stale and len(self._ordered) >= history_limits.FORECAST_SCORES_MIN:
            self._is_stale = False
            self._levels = tuple(self._at(level) for level in LEVELS)
        return self._levels

    def _at(self, level: float) -> float:
        """Return the score at a level, moved outwards by one rank so that few scores do not promise too much."""
        n = len(self._ordered)
        rank = ceil((n + 1) * level) if level >= 0.5 else int((n + 1) * level)
        return self._ordered[min(max(rank, 1), n) - 1]
