"""An engine without a model: words drawn from seed, prompt and position, at a set speed.

It costs next to nothing, so the control plane can be loaded with thousands of slots on one core, and it is exactly
deterministic: token `i` of an answer depends on seed, prompt and `i` alone, so a continuation on another worker joins
seamlessly and a test can compare every token. It knows no special prompts: faults are scripted by the test that builds
the engine, through the constructor.
"""

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Final

from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import Clock

from beeyard_worker.engine.chat_template import PLAIN_STOPS, render_plain
from beeyard_worker.engine.port import EngineFacts, EngineFault, Finish, Generation, Token
from beeyard_worker.engine.stop_strings import StopScanner

VERSION: Final = "1"
# Tokens that come closer together than this are gathered: one step of the engine, one wake-up of the loop.
STEP_MS: Final = 5
# Without a rate, this many tokens are made before other answers get their turn.
BATCH_TOKENS: Final = 16
_BYTES_PER_TOKEN: Final = 4
# One digest decides over a block of tokens, one byte each.
_BLOCK_TOKENS: Final = 64
_WORDS: Final = tuple(
    (
        "the of and to in a is that it was for on are with as they at be this from "
        "bee queen hive comb honey wax wing brood swarm nectar pollen field clover linden heather orchard meadow "
        "smoke frame veil keeper garden summer winter morning evening rain wind sun shade flower dance scent path "
        "finds takes keeps builds fills seals feeds warms guards follows returns carries gathers circles hums "
        "rests wakes waits sings small bright warm quiet golden early late far near slow quick old new first last "
        "then soon again always never often home away under over through before after between around because"
    ).split()
)
_TOKENS: Final = tuple(Token(at, " " + word) for at, word in enumerate(_WORDS))


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
        """
        self._clock = clock
        self._rate = tokens_per_s
        self._step_tokens = step_tokens
        self._context = context_tokens
        self._end_below = round(end_probability * 256)
        self._scripted = scripted
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
        """Be ready at once."""
        if self._scripted is not None and self._scripted.after_tokens is None:
            raise EngineFault(self._scripted.reason, "the fault that was ordered at load")
        on_progress(1.0)
        return self._facts

    async def generate(
        self, generation: Generation
    ) -> AsyncGenerator[Sequence[Token] | Finish, None]:
        """Yield the words that are due, then how it ended."""
        async with self._slots:
            prompt, stops = _prompt(generation)
            end = min(generation.max_tokens, self._room(prompt))
            answer = _Answer(
                _Words(generation, prompt, self._end_below),
                StopScanner((*generation.stop, *stops), hidden=_hidden(generation)),
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
            yield Finish(
                reason="stop" if answer.ended else "length",
                prompt_tokens=_count(prompt),
                completion_tokens=generation.resume_count + answer.sent,
                cached_prompt_tokens=0,
                prefill_ms=first - begun,
                decode_ms=last - first,
            )

    async def count_prompt_tokens(self, generation: Generation) -> int:
        """Return a quarter of the prompt's bytes, as `generate` counts, too."""
        return _count(_prompt(generation)[0])

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
        room = self._context - _count(prompt)
        if room <= 0:
            raise EngineFault(
                Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT,
                f"the prompt has {_count(prompt)} tokens, the context holds {self._context}",
            )
        return room

    def _ordered_fault(self, resumed: int, upto: int) -> int | None:
        """Return the index at which a fault was ordered, if it lies before `upto`."""
        if self._scripted is None or self._scripted.after_tokens is None:
            return None
        index = resumed + self._scripted.after_tokens
        return index if index < upto else None


class _Answer:
    """The tokens of one generation, up to a stop string or the model's own end."""

    def __init__(self, words: "_Words", scanner: StopScanner) -> None:
        self._words = words
        self._scanner = scanner
        self.ended = scanner.matched
        self.sent = 0

    def take(self, index: int, upto: int) -> list[Token]:
        """Make tokens `index` to `upto` - 1 and return those that are certain."""
        made, out_of_words = self._words.take(index, upto)
        safe = self._scanner.feed(made)
        self.ended = out_of_words or self._scanner.matched
        self.sent += len(safe)
        return safe

    def rest(self) -> list[Token]:
        """Return what a possible stop string held back, now that none follows."""
        held = self._scanner.flush()
        self.sent += len(held)
        return held


class _Words:
    """The endless answer to one prompt."""

    def __init__(self, generation: Generation, prompt: str, end_below: int) -> None:
        # At temperature 0 there is nothing to draw, so the seed has no say, as with any model.
        seed = generation.seed if generation.temperature > 0 else 0
        self._key = hashlib.blake2b(f"{seed}:{prompt}".encode(), digest_size=32).digest()
        self._end_below = end_below
        self._block = -1
        self._words = b""
        self._ends = b""

    def take(self, index: int, upto: int) -> tuple[list[Token], bool]:
        """Return tokens `index` to `upto` - 1, fewer if the answer ends before, and whether it does."""
        made: list[Token] = []
        for at in range(index, upto):
            block, place = divmod(at, _BLOCK_TOKENS)
            if block != self._block:
                self._block = block
                self._words = self._digest(block, b"words")
                self._ends = self._digest(block, b"ends")
            if self._end_below and self._ends[place] < self._end_below:
                return made, True
            made.append(_TOKENS[self._words[place] % len(_TOKENS)])
        return made, False

    def _digest(self, block: int, purpose: bytes) -> bytes:
        return hashlib.blake2b(
            block.to_bytes(8, "little"), key=self._key, person=purpose, digest_size=_BLOCK_TOKENS
        ).digest()


def _prompt(generation: Generation) -> tuple[str, tuple[str, ...]]:
    if generation.messages:
        return render_plain(generation.messages), PLAIN_STOPS
    return generation.prompt, ()


def _hidden(generation: Generation) -> str:
    """Return what the resumed tokens say beyond what was yielded of them; see `StopScanner`."""
    text = "".join(_TOKENS[token].text for token in generation.resume_ids if token < len(_TOKENS))
    yielded = generation.resume_text
    return text[len(yielded) :] if text.startswith(yielded) else ""


def _count(prompt: str) -> int:
    return max(1, -(-len(prompt.encode()) // _BYTES_PER_TOKEN))
