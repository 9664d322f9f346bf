"""A synthetic engine that computes step by step: the same words as the other one, at the cost of a made-up device.

What it makes up is how long a step takes (`StepTimes`); everything else is as with a real engine that batches: prompts
go through in slices, sequences share KV memory in pages, a step makes one token for each that decodes, and a sequence
that lost its memory computes its tokens again. It executes what the batch planner plans and nothing else.
"""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final, Self

from beeyard_core.batching.planner import BatchPlanner
from beeyard_core.batching.step_cost import StepLoad
from beeyard_core.batching.step_plan import StepPlan
from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import Clock

from beeyard_worker.engine.batch_loop import BatchLoop, Seat
from beeyard_worker.engine.port import EngineFacts, EngineFault, Finish, Generation, Token
from beeyard_worker.engine.stop_strings import StopScanner
from beeyard_worker.engine.synthetic_answer import (
    SyntheticAnswer,
    Words,
    count_tokens,
    finish_of,
    hidden_text,
    prompt_of,
)

VERSION: Final = "steps-1"
PREFIX: Final = "steps:"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """How long a step of the made-up device takes, in milliseconds.

    Attributes:
        base: Any step.
        prefill: Beside that, each prompt token.
        decode: Each sequence that makes a token.
        kv: Each token in memory of those that the step touches.
    """

    base: float = 5.0
    prefill: float = 0.05
    decode: float = 0.2
    kv: float = 0.0

    @classmethod
    def parse(cls, source: str) -> Self:
        """Read `steps:base=5,prefill=0.05,decode=0.2,kv=0`; what is not named keeps its default.

        Raises:
            EngineFault: INVALID_REQUEST.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        given: dict[str, float] = {}
        for part in filter(None, source.removeprefix(PREFIX).split(",")):
            name, _, number = part.partition("=")
            try:
                given[name] = float(number)
            except ValueError:
                given[name] = -1.0
            if name not in names or not 0 <= given[name] < float("inf"):
                raise EngineFault(
                    Refusal.INVALID_REQUEST,
                    "the source of a synthetic model that computes in steps is steps:NAME=MS,... "
                    f"with names out of {', '.join(sorted(names))} and times of 0 or more",
                )
        return cls(**given)

    def ms(self, load: StepLoad) -> float:
        """Return how long a step with this load takes."""
        return (
            self.base
            + self.prefill * load.prefill_tokens
            + self.decode * load.decode_sequences
            + self.kv * load.kv_tokens
        )


class SteppedSyntheticEngine:
    """Generates words in the steps that its planner plans."""

    def __init__(
        self,
        clock: Clock,
        *,
        times: StepTimes,
        planner: BatchPlanner,
        slots: int,
        context_tokens: int,
        end_probability: float = 0.0,
    ) -> None:
        """Set the device and its planner.

        Args:
            clock: Paces the steps.
            times: What a step costs.
            planner: Decides what each step computes, within the KV memory that it was given.
            slots: Answers at once, at most.
            context_tokens: Longest prompt plus answer; more than the KV memory holds is cut to that.
            end_probability: That the model ends its answer at any one token, 0 to 1 in steps of 1/256.
        """
        self._clock = clock
        self._times = times
        self._end_below = round(end_probability * 256)
        self._context = min(context_tokens, planner.pages.tokens_total)
        self._slots = asyncio.Semaphore(slots)
        self._loop = BatchLoop(planner, self._execute)
        self._owed_ms = 0.0
        self._facts = EngineFacts(
            engine="synthetic",
            version=VERSION,
            deterministic=True,
            token_ids=True,
            context_tokens=self._context,
            quantization="",
            slots=slots,
            kv_tokens=planner.pages.tokens_total,
            kv_page_tokens=planner.pages.page_tokens,
        )

    async def load(self, on_progress: Callable[[float], None]) -> EngineFacts:
        """Be ready at once."""
        on_progress(1.0)
        return self._facts

    def watch_slots(self, on_change: Callable[[int], None]) -> None:
        """Call `on_change` with what the planner opens."""
        self._loop.watch_slots(on_change)

    async def generate(
        self, generation: Generation
    ) -> AsyncGenerator[Sequence[Token] | Finish, None]:
        """Yield the words of each step, then how it ended."""
        async with self._slots:
            prompt, stops = prompt_of(generation)
            answer = SyntheticAnswer(
                Words(generation, prompt, self._end_below),
                StopScanner((*generation.stop, *stops), hidden=hidden_text(generation)),
            )
            index = generation.resume_count
            left = 0 if answer.ended else self._end(generation, prompt) - index
            begun = first = last = self._clock.now().mono_ms
            if left > 0:
                seat = self._seat(generation, prompt, left)
                try:
                    while left and not answer.ended:
                        count = await self._loop.take(seat)
                        last = self._clock.now().mono_ms
                        first = last if index == generation.resume_count else first
                        if step := answer.take(index, index + count):
                            yield step
                        index, left = index + count, left - count
                finally:
                    self._loop.leave(seat)
            if rest := answer.rest():
                yield rest
            yield finish_of(generation, prompt, answer, begun, first, last)

    async def count_prompt_tokens(self, generation: Generation) -> int:
        """Return a quarter of the prompt's bytes, as `generate` counts, too."""
        return count_tokens(prompt_of(generation)[0])

    async def close(self) -> None:
        """End what runs."""
        await self._loop.close()

    async def _execute(self, plan: StepPlan) -> float:
        """Take as long as the device would. The clock has whole milliseconds, so what is left over is paid later."""
        step_ms = self._times.ms(plan.load)
        self._owed_ms += step_ms
        paid_ms = int(self._owed_ms)
        self._owed_ms -= paid_ms
        await self._clock.sleep_ms(paid_ms)
        return step_ms

    def _end(self, generation: Generation, prompt: str) -> int:
        """Return the index at which the answer is as long as it may be."""
        room = self._context - count_tokens(prompt)
        if room <= 0:
            raise EngineFault(
                Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT,
                f"the prompt has {count_tokens(prompt)} tokens, the context holds {self._context}",
            )
        return min(generation.max_tokens, room)

    def _seat(self, generation: Generation, prompt: str, left: int) -> Seat:
        return self._loop.join(
            rank=generation.rank,
            prompt_tokens=count_tokens(prompt) + generation.resume_count,
            answer_tokens_max=left,
        )
