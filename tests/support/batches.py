"""Random worlds of sequences for the batch planner, and an engine whose steps cost what a formula says."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from beeyard_core.batching.planner import BatchPlanner
from beeyard_core.batching.sequence import Sequence, SequenceId
from beeyard_core.batching.step_cost import StepLoad
from beeyard_core.batching.step_plan import StepBounds, StepPlan
from hypothesis import strategies as st

PAGE = 4


@dataclass(frozen=True, slots=True)
class TrueCost:
    """What a step of the made-up engine really takes, in milliseconds."""

    base: float = 5.0
    prefill: float = 0.1
    decode: float = 0.5
    kv: float = 0.0005

    def ms(self, load: StepLoad) -> float:
        """Return how long this step takes."""
        return (
            self.base
            + self.prefill * load.prefill_tokens
            + self.decode * load.decode_sequences
            + self.kv * load.kv_tokens
        )


@dataclass(slots=True)
class Asked:
    """A sequence that joins before this step."""

    step: int
    rank: int
    prompt: int
    answer: int


@dataclass(slots=True)
class World:
    """A planner, what joins it, and what its steps cost."""

    asked: list[Asked]
    kv_tokens: int = 64
    slots_max: int = 8
    bounds: StepBounds = field(default_factory=StepBounds)
    cost: TrueCost = field(default_factory=TrueCost)

    def planner(self) -> BatchPlanner:
        """Return the planner that has seen nothing yet."""
        return BatchPlanner(
            slots_max=self.slots_max,
            kv_tokens=self.kv_tokens,
            bounds=self.bounds,
            page_tokens=PAGE,
        )


#: Called with the planner before the plan was carried out, the plan, and the planner's sequences.
Look = Callable[[BatchPlanner, StepPlan], None]


@dataclass(slots=True)
class Played:
    """What came of a world."""

    planner: BatchPlanner
    plans: list[StepPlan] = field(default_factory=list)
    joined_at: dict[SequenceId, int] = field(default_factory=dict)
    ended_at: dict[SequenceId, int] = field(default_factory=dict)
    made: dict[SequenceId, int] = field(default_factory=dict)


def play(world: World, *, steps_max: int, look: Look | None = None) -> Played:
    """Run until everybody has ended, or for so many steps."""
    planner = world.planner()
    played = Played(planner)
    waiting = sorted(enumerate(world.asked), key=lambda each: each[1].step)
    for step in range(steps_max):
        while waiting and waiting[0][1].step <= step:
            number, asked = waiting.pop(0)
            sequence = sequence_of(number, asked)
            planner.join(sequence)
            played.joined_at[sequence.sequence_id] = step
            played.made[sequence.sequence_id] = 0
        if planner.is_idle and not waiting:
            break
        plan = planner.begin_step()
        if look is not None:
            look(planner, plan)
        played.plans.append(plan)
        for made in planner.end_step(plan, world.cost.ms(plan.load)):
            played.made[made] += 1
            number = int(made.removeprefix("s"))
            if played.made[made] == world.asked[number].answer:
                played.ended_at[made] = step
    return played


def sequence_of(number: int, asked: Asked) -> Sequence:
    """Return the sequence that was asked for."""
    return Sequence(
        sequence_id=SequenceId(f"s{number}"),
        rank=asked.rank,
        prompt_tokens=asked.prompt,
        answer_tokens_max=asked.answer,
    )


def worlds(**fixed: Any) -> st.SearchStrategy[World]:
    """Return worlds in which memory is short: each sequence fits alone, and seldom more than three together."""
    asked = st.builds(
        Asked,
        step=st.integers(0, 30),
        rank=st.integers(0, 3),
        prompt=st.integers(1, 40),
        answer=st.integers(1, 24),
    )
    bounds = st.builds(
        StepBounds,
        step_ms=st.sampled_from([0.0, 8.0, 20.0]),
        prefill_tokens_max=st.integers(1, 64),
    )
    given: dict[str, Any] = {
        "asked": st.lists(asked, min_size=1, max_size=8),
        "kv_tokens": st.integers(64, 160),
        "slots_max": st.integers(1, 8),
        "bounds": bounds,
    }
    return st.builds(World, **(given | {name: st.just(value) for name, value in fixed.items()}))
