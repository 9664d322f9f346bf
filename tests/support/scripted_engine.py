"""An engine that generates when a test says so: one queue of steps for each prompt."""

import asyncio
import collections
from collections.abc import AsyncGenerator, Callable, Sequence

from beeyard_worker.engine.port import EngineFacts, EngineFault, Finish, Generation, Token

_STEPS_MAX = 10_000


def tokens(first: int, count: int) -> list[Token]:
    """Return tokens whose id is their index and whose text is it in decimal, after a space."""
    return [Token(index, f" {index}") for index in range(first, first + count)]


class ScriptedEngine:
    """Counts a prompt's words as its tokens; generates what `emit`, `finish` and `fail` put in."""

    def __init__(self, *, slots: int = 2, context_tokens: int = 10_000) -> None:
        """Have so many slots."""
        self.facts = EngineFacts(
            engine="synthetic",
            version="scripted",
            deterministic=True,
            token_ids=True,
            context_tokens=context_tokens,
            quantization="",
            slots=slots,
        )
        self.running: set[str] = set()
        self.generations: dict[str, Generation] = {}
        self._next: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._steps: dict[str, asyncio.Queue[Sequence[Token] | Finish | EngineFault]] = (
            collections.defaultdict(lambda: asyncio.Queue(maxsize=_STEPS_MAX))
        )

    def emit(self, prompt: str, count: int) -> None:
        """Generate `count` more tokens in one step, or in steps of 1,000."""
        for start in range(0, count, 1_000):
            first = self._next.get(prompt, 0)
            step = tokens(first, min(1_000, count - start))
            self._next[prompt] = first + len(step)
            self._steps[prompt].put_nowait(step)

    def finish(self, prompt: str) -> None:
        """End the answer by itself."""
        self._steps[prompt].put_nowait(
            Finish(
                reason="stop",
                prompt_tokens=len(prompt.split()),
                completion_tokens=self._next.get(prompt, 0),
                cached_prompt_tokens=0,
                prefill_ms=1.0,
                decode_ms=2.0,
            )
        )

    def fail(self, prompt: str, fault: EngineFault) -> None:
        """Break the answer."""
        self._steps[prompt].put_nowait(fault)

    def unread(self, prompt: str) -> int:
        """Return how many steps wait to be taken."""
        return self._steps[prompt].qsize()

    async def until(self, is_met: Callable[["ScriptedEngine"], object]) -> None:
        """Return once the condition holds; looked at when a generation starts or ends."""
        async with asyncio.timeout(20):
            while not is_met(self):
                self._changed.clear()
                await self._changed.wait()

    async def load(self, on_progress: Callable[[float], None]) -> EngineFacts:
        on_progress(1.0)
        return self.facts

    def watch_slots(self, on_change: Callable[[int], None]) -> None:
        self.on_slots = on_change

    async def generate(
        self, generation: Generation
    ) -> AsyncGenerator[Sequence[Token] | Finish, None]:
        prompt = generation.prompt
        self._next.setdefault(prompt, generation.resume_count)
        self.generations[prompt] = generation
        self.running.add(prompt)
        self._changed.set()
        try:
            while True:
                step = await self._steps[prompt].get()
                if isinstance(step, EngineFault):
                    raise step
                yield step
                if isinstance(step, Finish):
                    return
        finally:
            self.running.discard(prompt)
            self._changed.set()

    async def count_prompt_tokens(self, generation: Generation) -> int:
        return len(generation.prompt.split())

    async def close(self) -> None:
        return
