"""How fast workers generate, as measured: kept for each engine, model and device, so that a worker of which nothing was
measured yet is taken for what others like it turned out to be.

Nothing here is guessed. A worker's own figure counts first; then that of its kind; if there is neither, its speed is
unknown and it comes after all that are known. What is told to policies is a step of a fixed grid: two workers alike
never measure exactly alike, and without the grid noise would decide between them instead of their loads.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from beeyard_core import limits
from beeyard_core.ids import ModelName

#: Weight of the newest measurement, as in `forecast.py`.
_WEIGHT = 0.125
#: Steps of the grid to a factor of two: neighbours differ by a fifth, more than like workers do.
_STEPS_PER_OCTAVE = 4
#: What `Speeds.speedup` is taken to be while nobody measured it.
PREFILL_SPEEDUP = 20.0


def on_grid(figure: float) -> float:
    """Return the step of the grid that is nearest to a figure; 0 for what was not measured."""
    if not 0.0 < figure < math.inf:
        return 0.0
    step = round(math.log2(figure) * _STEPS_PER_OCTAVE)
    # Cut to four digits: the logarithm's last bits are not the same on every machine.
    return float(f"{2.0 ** (step / _STEPS_PER_OCTAVE):.4g}")


class SpeedKind(NamedTuple):
    """What workers have in common whose speeds say something of each other. `device`: its name; empty: unknown."""

    engine: str
    model: ModelName
    device: str


def _mean(before: float | None, newest: float) -> float:
    return newest if before is None else before + _WEIGHT * (newest - before)


@dataclass(slots=True)
class Speeds:
    """Measured figures, exponentially weighted; of each table the `SPEEDS_KEPT_MAX` that were measured last.

    Attributes:
        decode: Tokens a second of one slot.
        version: Counts up with every change that policies see.
        speedup: Of each model, how many prompt tokens are computed in the time of one token of an answer.
    """

    decode: dict[SpeedKind, float] = field(default_factory=dict)
    speedup: dict[ModelName, float] = field(default_factory=dict)
    version: int = 0

    def note_decode(self, kind: SpeedKind, tokens_per_s: float) -> bool:
        """Take in what a worker measured; return whether policies see another figure for its kind now."""
        if not 0.0 < tokens_per_s < math.inf:
            return False
        before = self.decode.pop(kind, None)
        after = self.decode[kind] = _mean(before, tokens_per_s)
        if len(self.decode) > limits.SPEEDS_KEPT_MAX:
            del self.decode[next(iter(self.decode))]
        return self._is_seen(before, after)

    def note_prefill(
        self, model: ModelName, *, tokens: int, prefill_ms: float, decode_token_ms: float
    ) -> bool:
        """Take in how long the prompt of a finished job took; return whether policies see another figure now.

        Args:
            model: The model.
            tokens: Prompt tokens that were computed, those out of a cache not counted.
            prefill_ms: How long that took.
            decode_token_ms: How long a token of the answer took.
        """
        if tokens < limits.PREFILL_MEASURED_TOKENS_MIN or prefill_ms <= 0 or decode_token_ms <= 0:
            return False
        before = self.speedup.pop(model, None)
        after = self.speedup[model] = _mean(before, decode_token_ms * tokens / prefill_ms)
        if len(self.speedup) > limits.SPEEDS_KEPT_MAX:
            del self.speedup[next(iter(self.speedup))]
        return self._is_seen(before, after)

    def _is_seen(self, before: float | None, after: float) -> bool:
        has_changed = on_grid(before or 0.0) != on_grid(after)
        self.version += has_changed
        return has_changed

    def tokens_per_s(self, own: float, kind: SpeedKind) -> float:
        """Return the speed that a worker is placed by: its own, else that of its kind; 0: unknown."""
        return on_grid(own) or on_grid(self.decode.get(kind, 0.0))

    def prefill_speedup(self, model: ModelName) -> float:
        """Return how much faster than an answer a prompt of a model is computed, token for token; 0: not measured."""
        return on_grid(self.speedup.get(model, 0.0))
