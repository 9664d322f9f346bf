"""The batch planner: the sequences of one engine, and what it has learnt of that engine's steps.

An engine uses it in turns, and nothing may come between the two calls of one turn but `join` and `leave`:

    plan = planner.begin_step()          the step to execute; memory is given and taken
    planner.end_step(plan, step_ms)      it was executed, and took so long

A sequence leaves by itself once it has made all its tokens, and by `leave` when it ends before: only the engine knows
what a stop string or an end token is. It may leave at any time, also while a step runs.
"""

from beeyard_core import limits
from beeyard_core.batching.kv_pages import KvPages
from beeyard_core.batching.sequence import Sequence, SequenceId
from beeyard_core.batching.slot_window import SlotWindow, affordable_sequences
from beeyard_core.batching.step_cost import StepCost
from beeyard_core.batching.step_plan import StepBounds, StepPlan, plan_step


class BatchPlanner:
    """Plans the steps of one engine."""

    def __init__(
        self,
        *,
        slots_max: int,
        kv_tokens: int,
        bounds: StepBounds,
        page_tokens: int = limits.KV_PAGE_TOKENS,
    ) -> None:
        """Start without sequences.

        Args:
            slots_max: Sequences at once, at most.
            kv_tokens: KV memory of the engine, in tokens.
            bounds: What the operator sets.
            page_tokens: Tokens of one page of KV memory.
        """
        self._bounds = bounds
        self._pages = KvPages(tokens=kv_tokens, page_tokens=page_tokens)
        self._sequences: dict[SequenceId, Sequence] = {}
        self._arrivals = 0
        self._window = SlotWindow(most=slots_max, target_ms=bounds.step_ms)
        self._is_bounded = bounds.step_ms > 0
        self.cost = StepCost()
        self.preemptions = 0

    @property
    def slots_open(self) -> int:
        """How many sequences should be there at most; there may be more for a while after it fell."""
        return self._window.opened if self._is_bounded else self._window.most

    @property
    def pages(self) -> KvPages:
        """Who holds how much memory; to look at."""
        return self._pages

    @property
    def is_idle(self) -> bool:
        """Whether there is no sequence."""
        return not self._sequences

    def fits(self, tokens_max: int) -> bool:
        """Whether a sequence that may grow to so many tokens can ever run, alone if need be."""
        return self._pages.pages_for(tokens_max) <= self._pages.total

    def join(self, sequence: Sequence) -> None:
        """Take a sequence in; `fits` says whether it may come."""
        assert sequence.sequence_id not in self._sequences, "a sequence joins once"
        assert self.fits(sequence.tokens_max), "what can never run is refused before"
        self._arrivals += 1
        sequence.arrival = self._arrivals
        self._sequences[sequence.sequence_id] = sequence

    def leave(self, sequence_id: SequenceId) -> None:
        """Forget a sequence and take its memory back; one that is not here harms nobody."""
        self._pages.reclaim(sequence_id)
        self._sequences.pop(sequence_id, None)

    def hold_back(self, sequence_id: SequenceId, *, is_held_back: bool) -> bool:
        """Compute nothing more of a sequence, or go on with it; return whether it is here and held back."""
        sequence = self._sequences.get(sequence_id)
        if sequence is None:
            return False
        sequence.is_held_back = is_held_back
        return is_held_back

    def begin_step(self) -> StepPlan:
        """Return the next step, and give and take memory as it says."""
        plan = plan_step(self._sequences.values(), self._pages, self.cost, self._bounds)
        for sequence_id in plan.preempted:
            self._pages.reclaim(sequence_id)
            self._sequences[sequence_id].computed = 0
            self.preemptions += 1
        for sequence_id, pages in plan.pages.items():
            self._pages.give(sequence_id, pages)
        return plan

    def end_step(self, plan: StepPlan, step_ms: float) -> tuple[SequenceId, ...]:
        """Count what the step computed, learn from how long it took, and return which sequences made a token."""
        computed = dict.fromkeys(plan.decoding, 1)
        computed.update((part.sequence_id, part.tokens) for part in plan.slices)
        makers = tuple(
            sequence.sequence_id
            for sequence in self._sequences.values()
            if _advance(sequence, computed.get(sequence.sequence_id, 0))
        )
        self.cost.observe(plan.load, step_ms)
        if self._is_bounded:
            self._window.observe(
                step_ms=step_ms, sequences=len(self._sequences), affordable=self._affordable()
            )
        for sequence_id in makers:
            if self._sequences[sequence_id].is_complete:
                self.leave(sequence_id)
        return makers

    def _affordable(self) -> float:
        each = sum(sequence.known for sequence in self._sequences.values())
        mean = each / max(len(self._sequences), 1)
        return affordable_sequences(self.cost, self._bounds.step_ms, kv_tokens_each=mean)


def _advance(sequence: Sequence, computed: int) -> bool:
    """Count the tokens that a step computed of a sequence; return whether that made another."""
    if computed == 0:
        sequence.passed_over += not sequence.is_held_back
        return False
    sequence.computed += computed
    if sequence.pending > 0:
        return False
    sequence.made += 1
    return True
