"""Reads llama.cpp's chunks as tokens with ids and whole text.

What a chunk says (measured with xllamacpp 2026.10; `n_probs` = 1 makes it tell id and raw bytes, at no cost in speed):
`logprobs.content[0].id` is the id of the newest token, `.bytes` are all bytes since the previous chunk, and
`timings.predicted_n` counts the tokens so far. It jumps by more than one when tokens ended within a character: those
send no chunk of their own, so their ids are looked up by their bytes. The end token of the model comes as a chunk
without bytes; it is not part of the answer, or a continuation would begin after the end.
"""

import codecs
import dataclasses
from collections.abc import Sequence
from typing import Literal

from beeyard_core.refusal import Refusal

from beeyard_worker.engine.llamacpp_run import Chunk
from beeyard_worker.engine.port import EngineFault, Finish, Generation, Token
from beeyard_worker.engine.stop_strings import StopScanner
from beeyard_worker.engine.vocabulary import Vocabulary

# Stands for a token that cannot be known: the last ones of an answer that was cut off within a character.
_UNKNOWABLE_ID = 0


@dataclasses.dataclass(slots=True)
class _Timings:
    """Timings as the latest chunk tells them."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated: int = 0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0

    def update(self, chunk: Chunk) -> None:
        timings = chunk.get("timings")
        if timings is None:
            return
        self.cached_tokens = int(timings["cache_n"])
        self.prompt_tokens = int(timings["prompt_n"]) + self.cached_tokens
        self.generated = int(timings["predicted_n"])
        self.prefill_ms = float(timings["prompt_ms"])
        self.decode_ms = float(timings["predicted_ms"])


class LlamaAnswer:
    """One answer while it is generated."""

    def __init__(
        self, generation: Generation, stops: Sequence[str], vocabulary: Vocabulary | None
    ) -> None:
        """Begin, or continue after the resumed tokens; for the latter a vocabulary is needed."""
        self._generation = generation
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._timings = _Timings()
        self._seen = 0
        self._silent: list[int] = []
        self._sent = 0
        self.vocabulary = vocabulary
        self.finish: Finish | None = None
        hidden = ""
        if vocabulary is not None:
            self._decoder.decode(vocabulary.unfinished(generation.resume_ids))
            hidden = vocabulary.hidden(generation.resume_ids, generation.resume_text)
        self._scanner = StopScanner((*generation.stop, *stops), hidden=hidden)

    @property
    def ended_before(self) -> bool:
        """Whether the resumed tokens hold a stop string already, so that nothing is left to generate."""
        return self._scanner.matched

    def needs_vocabulary(self, chunk: Chunk) -> bool:
        """Tell whether the chunk hides tokens, so that `vocabulary` has to be set before it is taken."""
        timings = chunk.get("timings")
        missed = timings is not None and int(timings["predicted_n"]) - self._seen > 1
        return missed and self.vocabulary is None

    def take(self, chunk: Chunk) -> list[Token]:
        """Return the tokens that the chunk makes certain; sets `finish` with the last ones.

        Raises:
            EngineFault: llama.cpp refused the request or broke off.
        """
        if "error" in chunk:
            raise _fault(chunk["error"])
        try:
            self._timings.update(chunk)
            choice = chunk["choices"][0]
            made = [token for entry in _entries(choice) for token in self._tokens(*entry)]
            reason = choice["finish_reason"]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise EngineFault(
                Refusal.PARSE_ERROR, "llama.cpp sent an answer that cannot be read"
            ) from error
        safe = self._scanner.feed(made)
        if self._scanner.matched:
            return self._end(safe, "stop")
        if reason is not None:
            safe += self._scanner.feed(self._last(reason))
            safe += self._scanner.flush()
            return self._end(safe, "stop" if reason == "stop" else "length")
        self._sent += len(safe)
        return safe

    def _tokens(self, newest: int, raw: bytes) -> list[Token]:
        count = max(self._timings.generated - self._seen, 1)
        self._seen += count
        if not raw:  # maybe the end token: wait for what follows
            self._silent.append(newest)
            return []
        silent, self._silent = self._silent, []
        ids = [*silent, *self._hidden(raw, newest, count - 1), newest]
        text = self._decoder.decode(raw)
        return [*(Token(token, "") for token in ids[:-1]), Token(newest, text)]

    def _hidden(self, raw: bytes, newest: int, count: int) -> Sequence[int]:
        """Return the ids of the tokens that came before the newest one within the same bytes."""
        if count == 0 or self.vocabulary is None:
            return (_UNKNOWABLE_ID,) * count
        before = raw.removesuffix(self.vocabulary.bytes_of(newest))
        return self.vocabulary.split(before, count) or (_UNKNOWABLE_ID,) * count

    def _last(self, reason: str) -> list[Token]:
        """Return the tokens without text at the end of an answer that was cut off."""
        if reason == "stop":
            return []
        hidden = max(self._timings.generated - self._seen, 0)
        return [Token(token, "") for token in (*self._silent, *((_UNKNOWABLE_ID,) * hidden))]

    def _end(self, tokens: list[Token], reason: Literal["stop", "length"]) -> list[Token]:
        self._sent += len(tokens)
        resumed = self._generation.resume_count
        prompt_tokens = max(self._timings.prompt_tokens - resumed, 0)
        self.finish = Finish(
            reason=reason,
            prompt_tokens=prompt_tokens,
            completion_tokens=resumed + self._sent,
            cached_prompt_tokens=min(self._timings.cached_tokens, prompt_tokens),
            prefill_ms=self._timings.prefill_ms,
            decode_ms=self._timings.decode_ms,
        )
        return tokens


def _entries(choice: Chunk) -> list[tuple[int, bytes]]:
    found = choice.get("logprobs")
    if not found:
        return []
    return [(int(entry["id"]), bytes(entry["bytes"])) for entry in found["content"]]


def _fault(error: Chunk) -> EngineFault:
    """Translate llama.cpp's error; its own words may quote the request, so they are not passed on."""
    code, kind = int(error.get("code", 500)), str(error.get("type", ""))
    if kind == "exceed_context_size_error":
        return EngineFault(
            Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT,
            f"the prompt has {error.get('n_prompt_tokens', '?')} tokens, "
            f"the context holds {error.get('n_ctx', '?')}",
        )
    if 400 <= code < 500:
        return EngineFault(Refusal.INVALID_REQUEST, f"llama.cpp refused the request ({kind})")
    return EngineFault(Refusal.WORKER_ERROR, f"llama.cpp broke off ({kind})")
