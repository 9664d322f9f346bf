"""What the synthetic engines say: words drawn from seed, prompt and position.

Token `i` of an answer depends on seed, prompt and `i` alone, whatever makes it and however many at a time.
"""

import hashlib
from typing import Final

from beeyard_worker.engine.chat_template import PLAIN_STOPS, render_plain
from beeyard_worker.engine.port import Finish, Generation, Token
from beeyard_worker.engine.stop_strings import StopScanner

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


class SyntheticAnswer:
    """The tokens of one generation, up to a stop string or the model's own end."""

    def __init__(self, words: "Words", scanner: StopScanner) -> None:
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


class Words:
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


def prompt_of(generation: Generation) -> tuple[str, tuple[str, ...]]:
    """Return the prompt's text, and the stop strings that go with how it was rendered."""
    if generation.messages:
        return render_plain(generation.messages), PLAIN_STOPS
    return generation.prompt, ()


def hidden_text(generation: Generation) -> str:
    """Return what the resumed tokens say beyond what was yielded of them; see `StopScanner`."""
    text = "".join(_TOKENS[token].text for token in generation.resume_ids if token < len(_TOKENS))
    yielded = generation.resume_text
    return text[len(yielded) :] if text.startswith(yielded) else ""


def finish_of(
    generation: Generation, prompt: str, answer: SyntheticAnswer, begun: int, first: int, last: int
) -> Finish:
    """Return how an answer ended whose first and last token came at these monotonic milliseconds."""
    return Finish(
        reason="stop" if answer.ended else "length",
        prompt_tokens=count_tokens(prompt),
        completion_tokens=generation.resume_count + answer.sent,
        cached_prompt_tokens=0,
        prefill_ms=first - begun,
        decode_ms=last - first,
    )


def count_tokens(prompt: str) -> int:
    """Return a quarter of the prompt's bytes, which is about what a tokenizer makes of English."""
    return max(1, -(-len(prompt.encode()) // _BYTES_PER_TOKEN))
