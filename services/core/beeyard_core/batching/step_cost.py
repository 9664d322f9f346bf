"""What one engine step costs, learnt from the steps that were measured.

    step_ms = base + prefill * prompt tokens + decode * decoding sequences + kv * tokens in memory

Each coefficient is a time, so none is negative: the fit is a least-squares one under that constraint, by coordinate
descent on sums that fade (`_KEPT` a step), and it starts from where the last step left it. Four numbers and ten sums;
a step costs some microseconds. What the engine's other work or a neighbour adds is noise here, and shows in `error`.
"""

from dataclasses import dataclass
from typing import Final

from beeyard_core import limits

#: Weight that an earlier step keeps when another comes: a hundred steps are remembered well, a thousand are not.
_KEPT: Final = 0.99
#: Sweeps over the four coefficients for each step measured. More are not needed, since the next step goes on.
_SWEEPS: Final = 4
#: Weight of the newest relative error.
_ERROR_WEIGHT: Final = 0.1
#: A step that took several times what was predicted is one in which the machine did something else; it must not
#: teach that steps are slow. It counts as if it had taken so many times the prediction.
_SURPRISE_MAX: Final = 3.0
#: Scales that make the four terms alike in size, so that none hides another.
_SCALES: Final = (1.0, 64.0, 8.0, 4_096.0)
_BASE, _PREFILL, _DECODE, _KV = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLoad:
    """What one step computes.

    Attributes:
        prefill_tokens: Prompt tokens of all slices.
        decode_sequences: Sequences that make one token each.
        kv_tokens: Tokens in memory of all sequences that the step touches.
    """

    prefill_tokens: int
    decode_sequences: int
    kv_tokens: int


class StepCost:
    """The learnt cost of a step."""

    __slots__ = ("_gram", "_target", "_weights", "error", "prefill_tokens_seen", "steps")

    def __init__(self) -> None:
        """Start with nothing learnt."""
        self._gram = [[0.0] * 4 for _ in range(4)]
        self._target = [0.0] * 4
        self._weights = [0.0] * 4
        self.steps = 0
        self.error = 1.0
        #: Most prompt tokens of a step that was measured: what lies far beyond is a guess.
        self.prefill_tokens_seen = 0

    @property
    def is_learnt(self) -> bool:
        """Whether predictions may be relied on: enough steps were measured, and the latest were foreseen well."""
        return self.steps >= limits.BATCH_LEARNT_STEPS and self.error <= limits.BATCH_STEP_ERROR_MAX

    def observe(self, load: StepLoad, step_ms: float) -> None:
        """Take in how long a step took."""
        predicted = self.predict_ms(load)
        if predicted > 0:
            if self.is_learnt:
                step_ms = min(step_ms, _SURPRISE_MAX * predicted)
            off = min(abs(step_ms - predicted) / predicted, 1.0)
            self.error += _ERROR_WEIGHT * (off - self.error)
        self.steps += 1
        self.prefill_tokens_seen = max(self.prefill_tokens_seen, load.prefill_tokens)
        terms = _terms(load)
        for row, left in enumerate(terms):
            for column, right in enumerate(terms):
                self._gram[row][column] = self._gram[row][column] * _KEPT + left * right
            self._target[row] = self._target[row] * _KEPT + left * step_ms
        self._descend()

    def predict_ms(self, load: StepLoad) -> float:
        """Return how long such a step takes; 0 while nothing was measured."""
        return sum(weight * term for weight, term in zip(self._weights, _terms(load), strict=True))

    def prefill_tokens_within(self, load: StepLoad, step_ms: float) -> float:
        """Return how many prompt tokens may be added to this load before a step takes longer than `step_ms`."""
        return _count(step_ms - self.predict_ms(load), self._each(_PREFILL) + self._each(_KV))

    def decode_sequences_within(
        self, load: StepLoad, step_ms: float, *, kv_tokens_each: float
    ) -> float:
        """Return how many decoding sequences may be added, each with so many tokens in memory."""
        each = self._each(_DECODE) + self._each(_KV) * kv_tokens_each
        return _count(step_ms - self.predict_ms(load), each)

    def _each(self, term: int) -> float:
        return self._weights[term] / _SCALES[term]

    def _descend(self) -> None:
        weights = self._weights
        for _ in range(_SWEEPS):
            for at, row in enumerate(self._gram):
                if row[at] > 0:
                    others = sum(row[k] * weights[k] for k in range(4) if k != at)
                    weights[at] = max((self._target[at] - others) / row[at], 0.0)


def _terms(load: StepLoad) -> tuple[float, float, float, float]:
    return (
        1.0,
        load.prefill_tokens / _SCALES[_PREFILL],
        load.decode_sequences / _SCALES[_DECODE],
        load.kv_tokens / _SCALES[_KV],
    )


def _count(room_ms: float, each_ms: float) -> float:
    """Return how often `each_ms` goes into what is left; what costs nothing goes in without end."""
    if room_ms <= 0:
        return 0.0
    return room_ms / each_ms if each_ms > 0 else float("inf")
