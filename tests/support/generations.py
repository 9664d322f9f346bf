"""Short ways to ask an engine and to collect what it yields."""

import dataclasses
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from beeyard_worker.engine.port import Engine, Finish, Generation, Token


def generation(prompt: str = "the bee flies", **changes: Any) -> Generation:
    """Return a generation with plain settings and these changes."""
    plain = Generation(
        prompt=prompt,
        messages=(),
        max_tokens=24,
        temperature=0.8,
        top_p=0.95,
        top_k=40,
        seed=1,
        stop=(),
    )
    return dataclasses.replace(plain, **changes)


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One answer as a whole."""

    tokens: tuple[Token, ...]
    finish: Finish
    steps: int

    @property
    def text(self) -> str:
        """All text."""
        return "".join(token.text for token in self.tokens)

    @property
    def ids(self) -> tuple[int | None, ...]:
        """All ids."""
        return tuple(token.id for token in self.tokens)


async def collect(engine: Engine, asked: Generation) -> Answer:
    """Run one generation to its end."""
    tokens: list[Token] = []
    finish: Finish | None = None
    steps = 0
    async with aclosing(engine.generate(asked)) as items:
        async for item in items:
            assert finish is None, "nothing follows the finish"
            if isinstance(item, Finish):
                finish = item
            else:
                assert item, "no empty step"
                tokens += item
                steps += 1
    assert finish is not None, "a generation ends with a finish"
    return Answer(tuple(tokens), finish, steps)


def continued(asked: Generation, tokens: Sequence[Token]) -> Generation:
    """Return the generation that goes on after these tokens of an earlier attempt."""
    ids = tuple(token.id for token in tokens if token.id is not None)
    return dataclasses.replace(
        asked,
        resume_ids=ids,
        resume_text="".join(token.text for token in tokens),
        resume_count=len(tokens),
    )
