"""What one engine step computes, and the rules by which that is decided.

Rule 1: decoding comes first. Every sequence that decodes gets its token in every step; prompts get what is left.
Rule 2: of prompts, a step computes no more than its budget: what the operator allows at most, and no more than keeps
the step within its target once the cost of steps is learnt. A small slice is always computed, so that prompts advance
also where decoding alone fills the target; how many sequences decode is then for the slot window to lower.
Rule 3: memory is given by need. A prompt begins only when all its known tokens fit, with one more page for each
sequence that decodes; no prompt begins before one that waits for memory, and whatever holds memory goes on. A decoding
sequence gets a page when it needs one.
Rule 4: when none is left, the last in the order of service loses its memory and computes its tokens again later. The
first that holds any never does, so something always advances.
Rule 5: the order of service is rank, then arrival; but a sequence that was passed over too often goes before all ranks,
and stays there. That is what bounds how long anybody waits.
Rule 6: of a sequence whose reader is behind nothing is computed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from beeyard_core import limits
from beeyard_core.batching.kv_pages import KvPages
from beeyard_core.batching.sequence import Sequence, SequenceId
from beeyard_core.batching.step_cost import StepCost, StepLoad


@dataclass(frozen=True, slots=True)
class Slice:
    """Tokens of one prompt in a row: `tokens` from `first` on."""

    sequence_id: SequenceId
    first: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """One engine step.

    Attributes:
        preempted: Lose their memory before the step; what was computed of them is to be forgotten.
        decoding: Make one token each.
        slices: Parts of prompts; the last one of a prompt makes its first token.
        pages: Pages that each sequence of this step holds from now on.
        load: What the step amounts to.
        predicted_ms: How long it will take; 0: nobody knows yet.
    """

    preempted: tuple[SequenceId, ...]
    decoding: tuple[SequenceId, ...]
    slices: tuple[Slice, ...]
    pages: Mapping[SequenceId, int]
    load: StepLoad
    predicted_ms: float

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to compute."""
        return not (self.decoding or self.slices)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBounds:
    """What an operator sets.

    Attributes:
        step_ms: What a step should take at most; 0: as long as it takes.
        prefill_tokens_max: Prompt tokens of one step at most.
    """

    step_ms: float = 0.0
    prefill_tokens_max: int = limits.BATCH_PREFILL_TOKENS_MAX


def service_order(sequence: Sequence) -> tuple[int, int]:
    """Return the sort key of rule 5."""
    is_promoted = sequence.passed_over >= limits.BATCH_PASSED_OVER_MAX
    return (-1 if is_promoted else sequence.rank, sequence.arrival)


def plan_step(
    sequences: Iterable[Sequence], pages: KvPages, cost: StepCost, bounds: StepBounds
) -> StepPlan:
    """Return the next step; changes nothing."""
    ordered = sorted(sequences, key=service_order)
    draft = _Draft(pages, ordered, _Budget(cost, bounds))
    awaited = [sequence for sequence in ordered if not sequence.is_held_back]
    for sequence in awaited:
        if sequence.decodes:
            draft.decode(sequence)
    for sequence in awaited:
        if not sequence.decodes:
            draft.prefill(sequence)
    load = draft.load
    return StepPlan(
        preempted=tuple(draft.preempted),
        decoding=tuple(sequence.sequence_id for sequence in draft.decoding),
        slices=tuple(draft.slices),
        pages=draft.granted,
        load=load,
        predicted_ms=cost.predict_ms(load),
    )


class _Budget:
    """How much of prompts a step computes."""

    def __init__(self, cost: StepCost, bounds: StepBounds) -> None:
        self._cost = cost
        self._left = bounds.prefill_tokens_max
        # Computed whatever it takes, so that no target is low enough to stop prompts altogether.
        self._floor = limits.BATCH_PREFILL_TOKENS_MIN
        self._step_ms = float("inf")
        if bounds.step_ms > 0:
            # As much below the target as predictions are usually off, and never far beyond what was measured.
            self._step_ms = bounds.step_ms / (1.0 + cost.error) if cost.is_learnt else 0.0
            known = 2 * cost.prefill_tokens_seen if cost.is_learnt else 0
            self._left = min(self._left, max(limits.BATCH_PREFILL_TOKENS_START, known))
        if bounds.step_ms > 0 and not cost.is_learnt:
            self._floor = self._left

    def allowed(self, wanted: int, load: StepLoad) -> int:
        """Return how many of `wanted` tokens the step may compute beside this load."""
        fits = self._cost.prefill_tokens_within(load, self._step_ms)
        return int(min(wanted, self._left, max(fits, self._floor)))

    def spend(self, tokens: int) -> None:
        """Count what a step computes."""
        self._left -= tokens
        self._floor = max(self._floor - tokens, 0)


class _Draft:
    """A step while it is planned: grants and preemptions that are not carried out yet."""

    def __init__(self, pages: KvPages, ordered: list[Sequence], budget: _Budget) -> None:
        self._pages = pages
        self._budget = budget
        self._free = pages.free
        # In the order of service: the last one is the first to lose its memory.
        self._holders = [s for s in ordered if s.sequence_id in pages.held]
        self.decoding: list[Sequence] = []
        self.slices: list[Slice] = []
        self.preempted: list[SequenceId] = []
        self.granted: dict[SequenceId, int] = {}
        self._kv_tokens = 0
        self._prefill_tokens = 0
        # A prompt waits for memory: none behind it begins.
        self._is_full = False

    @property
    def load(self) -> StepLoad:
        return StepLoad(
            prefill_tokens=self._prefill_tokens,
            decode_sequences=len(self.decoding),
            kv_tokens=self._kv_tokens,
        )

    def decode(self, sequence: Sequence) -> None:
        """Let a sequence make its next token; without memory for it, take that of those behind, and at last its own."""
        if sequence.sequence_id in self.preempted:
            return
        need = self._pages.pages_for(sequence.known)
        more = need - self._pages.held[sequence.sequence_id]
        while more > self._free:
            victim = self._holders.pop()
            self._free += self._pages.held[victim.sequence_id]
            self.preempted.append(victim.sequence_id)
            if victim is sequence:
                return
        self._grant(sequence, need, more)
        self.decoding.append(sequence)
        self._kv_tokens += sequence.known

    def prefill(self, sequence: Sequence) -> None:
        """Compute a slice of a prompt, if the budget and the memory allow."""
        load = replace(self.load, kv_tokens=self._kv_tokens + sequence.computed)
        tokens = self._budget.allowed(sequence.pending, load)
        if tokens == 0 or not self._admit(sequence):
            return
        self._budget.spend(tokens)
        self.slices.append(Slice(sequence.sequence_id, sequence.computed, tokens))
        self._prefill_tokens += tokens
        self._kv_tokens += sequence.computed + tokens

    def _admit(self, sequence: Sequence) -> bool:
        """Give a prompt its memory; return whether it has it."""
        if sequence.sequence_id in self.preempted:
            return False
        if sequence.sequence_id in self._pages.held:
            return True
        need = self._pages.pages_for(sequence.known)
        if self._is_full or need + len(self.decoding) > self._free:
            self._is_full = True
            return False
        self._grant(sequence, need, need)
        return True

    def _grant(self, sequence: Sequence, need: int, more: int) -> None:
        self._free -= more
        self.granted[sequence.sequence_id] = need
