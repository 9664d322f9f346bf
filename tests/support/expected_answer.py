"""What the synthetic engine answers, worked out in this process, so that a test knows each token before it comes."""

from dataclasses import dataclass
from typing import Self

from beeyard_runtime.testing import ManualClock
from beeyard_worker.engine.port import Finish, Generation
from beeyard_worker.engine.synthetic import SyntheticEngine


@dataclass(frozen=True)
class Asked:
    """One job that a test submits, and its key."""

    request_id: str
    prompt: str
    max_tokens: int
    seed: int


@dataclass(frozen=True)
class Answer:
    """Every token of an answer."""

    ids: tuple[int, ...]
    text: str

    @classmethod
    async def to(cls, asked: Asked) -> Self:
        """Work out the answer to a job with an unbounded worker's context."""
        engine = SyntheticEngine(ManualClock(), context_tokens=1 << 20)
        generation = Generation(
            prompt=asked.prompt,
            messages=(),
            max_tokens=asked.max_tokens,
            temperature=1.0,
            top_p=1.0,
            top_k=0,
            seed=asked.seed,
            stop=(),
        )
        ids: list[int] = []
        texts: list[str] = []
        async for step in engine.generate(generation):
            if isinstance(step, Finish):
                continue
            ids += [token.id for token in step if token.id is not None]
            texts += [token.text for token in step]
        assert len(ids) == asked.max_tokens
        return cls(tuple(ids), "".join(texts))
