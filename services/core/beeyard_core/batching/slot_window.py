"""How many slots a worker opens: as many as its steps can serve within their target.

Additive increase, capped by the learnt cost, and multiplicative decrease: one slot more after a review whose steps kept
to the target and used every open slot; a quarter fewer after one whose steps on average did not. The learnt cost alone
would be wrong whenever the fit is; the measured average alone would find the edge only by crossing it.
"""

from typing import Final

from beeyard_core import limits
from beeyard_core.batching.step_cost import StepCost, StepLoad

_FEWER: Final = 0.75


class SlotWindow:
    """The number of open slots, reviewed every so many steps."""

    __slots__ = ("_busiest", "_ms", "_steps", "most", "opened", "target_ms")

    def __init__(self, *, most: int, target_ms: float) -> None:
        """Begin with a few slots of at most `most`, and aim at steps of `target_ms`."""
        self.most = most
        self.target_ms = target_ms
        self.opened = min(limits.BATCH_SLOTS_START, most)
        self._ms = 0.0
        self._steps = 0
        self._busiest = 0

    def observe(self, *, step_ms: float, sequences: int, affordable: float) -> None:
        """Take in a step, and review the window when it is time.

        Args:
            step_ms: How long the step took.
            sequences: Sequences that were there.
            affordable: Sequences that the learnt cost allows; infinite while nothing is learnt.
        """
        self._ms += step_ms
        self._steps += 1
        self._busiest = max(self._busiest, sequences)
        if self._steps < limits.BATCH_REVIEW_STEPS:
            return
        mean_ms, busiest = self._ms / self._steps, self._busiest
        self._ms, self._steps, self._busiest = 0.0, 0, 0
        if mean_ms > self.target_ms and busiest > 0:
            # From what was really there: open slots that nobody used did not make the steps slow.
            self.opened = max(int(min(self.opened, busiest) * _FEWER), 1)
        elif busiest >= self.opened:
            self.opened = min(self.opened + 1, self.most)
        self.opened = max(int(min(self.opened, affordable)), 1)


def affordable_sequences(cost: StepCost, target_ms: float, *, kv_tokens_each: float) -> float:
    """Return how many sequences may decode at once, so that prompts still have their share of each step.

    Args:
        cost: What was learnt of steps; infinitely many are affordable while that is not enough.
        target_ms: What a step should take at most, milliseconds.
        kv_tokens_each: Tokens in memory of one sequence, on average.
    """
    if not cost.is_learnt:
        return float("inf")
    nothing = StepLoad(prefill_tokens=0, decode_sequences=0, kv_tokens=0)
    decoding_ms = target_ms * (1.0 - limits.BATCH_PREFILL_SHARE) / (1.0 + cost.error)
    return cost.decode_sequences_within(nothing, decoding_ms, kv_tokens_each=kv_tokens_each)
