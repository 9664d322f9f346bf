"""The port between a worker and whatever generates its tokens.

It belongs to its callers (the worker's slots and sessions): plain values in, batches of tokens out,
no wire types and no lease. Every engine passes the one suite in `tests/conformance/test_engine.py`;
what an engine cannot do it says in its `EngineFacts` instead of pretending.

Theory of operation
    `generate` is an async generator. Each item is what one step of the engine produced for this
    answer; the last item is one `Finish`. There is no cancel method: closing the generator, by
    `aclose()` or by cancelling the task that iterates it, is the cancel, and when it returns the
    slot is free. A generation that breaks raises `EngineFault` with a reason of the closed list, so
    nobody upstream reads messages.

    Rule 1: a token's text is whole UTF-8. Bytes of a character that is not complete yet come with
    the token that completes it, so a text may be empty.
    Rule 2: `max_tokens` counts the whole answer. A resumed generation yields tokens
    `resume_count .. max_tokens - 1`.
    Rule 3: neither a stop string nor anything after it is ever part of the text that was yielded.
"""

import dataclasses
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Literal, Protocol

from beeyard_core.job import Priority
from beeyard_core.refusal import Refusal


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One answer to generate; every choice is made already.

    Attributes:
        prompt: The text to continue; empty when `messages` is set.
        messages: (role, content) turns to answer with the model's chat template; empty when
            `prompt` is set.
        max_tokens: Most tokens of the whole answer, the resumed part included; 1 or more.
        temperature: 0 (always the likeliest token) to 2.
        top_p: Only the likeliest tokens that together have this probability; above 0 to 1.
        top_k: Only this many likeliest tokens; 0 for all.
        seed: Seed of the sampler, 0 to 2**32 - 1.
        stop: Strings that end the answer and are not part of it.
        resume_ids: Ids of the tokens that an earlier attempt delivered; empty if the engine reveals
            none.
        resume_text: The text of those tokens.
        resume_count: How many were delivered; equals `len(resume_ids)` unless the engine reveals
            none.
        rank: Of the job's class; smaller is computed first where an engine has to choose.
    """

    prompt: str
    messages: tuple[tuple[str, str], ...]
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    stop: tuple[str, ...]
    resume_ids: tuple[int, ...] = ()
    resume_text: str = ""
    resume_count: int = 0
    rank: int = Priority.NORMAL


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer.

    Attributes:
        id: Its id in the model's vocabulary; None if the engine does not reveal ids.
        text: What it adds to the answer: whole UTF-8, may be empty.
    """

    id: int | None
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """How an answer ended by itself; always the last item of a generation.

    Attributes:
        reason: `stop` if the model ended it or a stop string was met; `length` if `max_tokens` or
            the context is used up.
        prompt_tokens: Tokens of the prompt after the chat template, without the resumed part.
        completion_tokens: Tokens of the whole answer, the resumed part included.
        cached_prompt_tokens: Prompt tokens found in the engine's prefix cache.
        prefill_ms: From the start of this generation to its first token, milliseconds.
        decode_ms: From the first to the last token of this generation, milliseconds.
    """

    reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int
    prefill_ms: float
    decode_ms: float


class EngineFault(Exception):
    """The engine broke or cannot do it; `reason` says whether another attempt elsewhere could help.

    Attributes:
        reason: Of the closed list: `VRAM_OOM`, `WORKER_ERROR`, `MODEL_LOAD_FAILED`,
            `INVALID_REQUEST`, `PARSE_ERROR`, `STREAM_READ_ERROR`, `WORKER_COMMUNICATION_FAILED` or
            a `NO_CAPACITY_INCOMPATIBLE_` one.
        message: One sentence for an operator; never prompt or output text, no class name, no
            traceback.
    """

    def __init__(self, reason: Refusal, message: str) -> None:
        """Keep the reason and the sentence."""
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What a loaded engine can do; constant until it is closed.

    Attributes:
        engine: `llamacpp`, `openai_http` or `synthetic`.
        version: As the engine's library or server reports itself; empty if it does not.
        deterministic: The same generation gives the same tokens, whatever runs beside it.
        token_ids: Token ids are known, so an answer continues exactly from a prefix of ids.
        context_tokens: Longest prompt plus answer of one generation.
        quantization: As the model's file names it, such as `Q4_K_M`; empty if unknown.
        slots: Generations that run at once; more would wait inside the engine, so callers must not
            start more. An engine that plans its steps may want fewer for a while: see `watch_slots`.
        kv_tokens: KV memory that the engine gives by need, in tokens; 0: it has a context's worth for
            each slot, so nobody has to count.
        kv_page_tokens: Tokens of one page of that memory.
        caches_prefixes: What was computed of a prompt is kept for the prompts after it.
    """

    engine: str
    version: str
    deterministic: bool
    token_ids: bool
    context_tokens: int
    quantization: str
    slots: int
    kv_tokens: int = 0
    kv_page_tokens: int = 1
    caches_prefixes: bool = False


class Engine(Protocol):
    """One model, loaded once, that generates up to `slots` answers at a time."""

    async def load(self, on_progress: Callable[[float], None]) -> EngineFacts:
        """Load the model and tell what it can do.

        Args:
            on_progress: Called in the event loop's thread with the part that is loaded, 0 to 1; 1
                once loaded.

        Raises:
            EngineFault: MODEL_LOAD_FAILED, or WORKER_COMMUNICATION_FAILED for an upstream that does
                not answer.
        """
        ...

    def generate(self, generation: Generation) -> AsyncGenerator[Sequence[Token] | Finish, None]:
        """Yield what each engine step produced, then one `Finish`; closing it cancels promptly.

        Use `contextlib.aclosing`, so that leaving the loop frees the slot at once.

        Raises:
            EngineFault: The generation broke or cannot be done.
        """
        ...

    def watch_slots(self, on_change: Callable[[int], None]) -> None:
        """Call `on_change` in the event loop's thread whenever another number of generations should run at once.

        The number is 1 to `EngineFacts.slots`. What runs beyond it goes on; an engine whose number is
        fixed never calls.
        """
        ...

    async def count_prompt_tokens(self, generation: Generation) -> int:
        """Return how many tokens the prompt has after the chat template.

        An estimate where the engine cannot tell (see the engine's own docstring).

        Raises:
            EngineFault: The engine is not loaded, or an upstream does not answer.
        """
        ...

    async def close(self) -> None:
        """Cancel what runs and free the model. Idempotent; also allowed before `load`."""
        ...
