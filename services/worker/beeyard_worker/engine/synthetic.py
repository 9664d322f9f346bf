"""An engine without a model: words drawn from seed, prompt and position, at a set speed.

It costs next to nothing, so the control plane can be loaded with thousands of slots on one core, and it is exactly
deterministic: token `i` of an answer depends on seed, prompt and `i` alone, so a continuation on another worker joins
seamlessly and a test can compare every token. It knows no special prompts: faults are scripted by the test that builds
the engine, through the constructor.
"""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final

from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import Clock

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

VERSION: Final = "1"
# Tokens that come closer together than this are gathered: one step of the engine, one wake-up of the loop.
STEP_MS: Final = 5
LOAD_STEP_MS: Final = 50
# Without a rate, this many tokens are made before other answers get their turn.
BATCH_TOKENS: Final = 16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedFault:
    """A fault that a test orders. `after_tokens` counts the tokens of one generation; None: at load."""

    after_tokens: int | None
    reason: Refusal = Refusal.WORKER_ERROR


class SyntheticEngine:
    """Generates words at `tokens_per_s` in each slot."""

    def __init__(
        self,
        clock: Clock,
        *,
        tokens_per_s: float = 0.0,
        step_tokens: int = BATCH_TOKENS,
        slots: int = 4,
        context_tokens: int = 8_192,
        end_probability: float = 0.0,
        scripted: ScriptedFault | None = None,
        load_ms: int = 0,
    ) -> None:
        """Set the speed and the limits.

        Args:
            clock: Paces the tokens.
            tokens_per_s: Of each slot; 0: as fast as the consumer takes them.
            step_tokens: Tokens of one answer that are made at once while there is no speed to keep.
            slots: Answers at once.
            context_tokens: Longest prompt plus answer.
            end_probability: That the model ends its answer at any one token, 0 to 1 in steps of 1/256.
            scripted: A fault to raise, for tests.
            load_ms: How long to pretend to load, milliseconds.
        """
        self._clock = clock
        self._rate = tokens_per_s
        self._step_tokens = step_tokens
        self._context = context_tokens
        self._end_below = round(end_probability * 256)
        self._scripted = scripted
        self._load_ms = load_ms
        self._slots = asyncio.Semaphore(slots)
        self._facts = EngineFacts(
            engine="synthetic",
            version=VERSION,
            deterministic=True,
            token_ids=True,
            context_tokens=context_tokens,
            quantization="",
            slots=slots,
        )

    async def load(self, on_progress: Callable[[float], None]) -> EngineFacts:
        """Be ready at once, or pretend to load for as long as was asked: nothing is read, only the time passes."""
        begun_ms = self._clock.now().mono_ms
        while (loaded_ms := self._clock.now().mono_ms - begun_ms) < self._load_ms:
            on_progress(loaded_ms / self._load_ms)
            await self._clock.sleep_ms(min(LOAD_STEP_MS, self._load_ms - loaded_ms))
        if self._scripted is not None and self._scripted.after_tokens is None:
            raise EngineFault(self._scripted.reason, "the fault that was ordered at load")
        on_progress(1.0)
        return self._facts

    async def generate(
        self, generation: Generation
    ) -> AsyncGenerator[Sequence[Token] | Finish, None]:
        """Yield the words that are due, then how it ended."""
        async with self._slots:
            prompt, stops = prompt_of(generation)
            end = min(generation.max_tokens, self._room(prompt))
            answer = SyntheticAnswer(
                Words(generation, prompt, self._end_below),
                StopScanner((*generation.stop, *stops), hidden=hidden_text(generation)),
            )
            index = generation.resume_count
            begun = first = last = self._clock.now().mono_ms
            async for upto in self._pace(index, index if answer.ended else end):
                last = self._clock.now().mono_ms
                first = last if index == generation.resume_count else first
                ordered = self._ordered_fault(generation.resume_count, upto)
                step = answer.take(index, upto if ordered is None else ordered)
                if step:
                    yield step
                if answer.ended:
                    break
                if ordered is not None and self._scripted is not None:
                    raise EngineFault(self._scripted.reason, "the fault that was ordered")
                index = upto
            if rest := answer.rest():
                yield rest
            yield finish_of(generation, prompt, answer, begun, first, last)

    def watch_slots(self, on_change: Callable[[int], None]) -> None:
        """Never call: the number of slots is fixed."""

    async def count_prompt_tokens(self, generation: Generation) -> int:
        """Return a quarter of the prompt's bytes, as `generate` counts, too."""
        return count_tokens(prompt_of(generation)[0])

    async def close(self) -> None:
        """Hold nothing, so free nothing."""

    async def _pace(self, index: int, end: int) -> AsyncGenerator[int, None]:
        """Yield, whenever tokens are due, the index after the last of them."""
        begun, origin = self._clock.now().mono_ms, index
        while index < end:
            if self._rate <= 0:
                index = min(index + self._step_tokens, end)
                yield index
                await asyncio.sleep(0)
                continue
            elapsed = self._clock.now().mono_ms - begun
            due = min(origin + int(elapsed * self._rate / 1_000), end)
            if due > index:
                index = due
                yield index
                continue
            next_ms = -(-(index + 1 - origin) * 1_000 // self._rate) - elapsed
            await self._clock.sleep_ms(max(int(next_ms), STEP_MS))

    def _room(self, prompt: str) -> int:
        """Return how many tokens of answer the context holds beside the prompt."""
        room = self._context - count_tokens(prompt)
        if room <= 0:
            raise EngineFault(
                Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT,
                f"the prompt has {count_tokens(prompt)} tokens, the context holds {self._context}",
            )
        return room

    def _ordered_fault(self, resumed: int, upto: int) -> int | None:
        """Return the index at which a fault was ordered, if it lies before `upto`."""
        if self._scripted is None or self._scripted.after_tokens is None:
            return None
        index = resumed + self._scripted.after_tokens
        return index if index < upto else None
