"""The bytes behind token ids, for the two moments at which llama.cpp does not tell them.

First, llama.cpp sends nothing for a token that ends within a character; the token that completes the character brings
the bytes of all of them, but only its own id. Second, an answer that is continued may begin within a character, and
only the ids of the earlier tokens are known. In both cases the vocabulary of the model's file has the answer.
"""

import codecs
import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final

from beeyard_runtime.models.gguf_file import GgufTokens

_UNKNOWN: Final = 2
_CONTROL: Final = 3
_USER_DEFINED: Final = 4
_BYTE: Final = 6
_SPACE: Final = "▁".encode()
# A character has at most four bytes, so no more than its last four tokens matter; broken text is not worth a search.
_LOST_TOKENS_MAX: Final = 8
_CHARACTER_BYTES_MAX: Final = 4


def _bytes_of_letters() -> Mapping[str, int]:
    """Return the table by which byte-level BPE writes any byte as a printable letter."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    table = {chr(byte): byte for byte in plain}
    table.update({chr(256 + at): byte for at, byte in enumerate(others)})
    return table


_LETTERS: Final = _bytes_of_letters()


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Token ids and their bytes, both ways."""

    tokens: GgufTokens

    def bytes_of(self, token: int) -> bytes:
        """Return what the token adds to an answer; nothing for control tokens and unknown ids."""
        if not 0 <= token < len(self.tokens.texts):
            return b""
        text, kind = self.tokens.texts[token], self.tokens.kinds[token]
        if kind in {_UNKNOWN, _CONTROL}:
            return b""
        if kind == _BYTE:
            return bytes((int(text[3:5], 16),))  # written as <0xF0>
        if kind == _USER_DEFINED:
            return text
        if self.tokens.model == "gpt2":
            return bytes(_LETTERS[letter] for letter in text.decode() if letter in _LETTERS)
        return text.replace(_SPACE, b" ")

    def unfinished(self, tokens: Sequence[int]) -> bytes:
        """Return the bytes of the character that these tokens begin and do not end; usually none."""
        tail = b"".join(self.bytes_of(token) for token in tokens[-_CHARACTER_BYTES_MAX:])
        for size in range(1, min(_CHARACTER_BYTES_MAX, len(tail) + 1)):
            length = _character_length(tail[-size])
            if length:
                return tail[-size:] if length > size else b""
        return b""

    def hidden(self, tokens: Sequence[int], yielded: str) -> str:
        """Return the text that these tokens have beyond what was yielded of them; usually none."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(b"".join(self.bytes_of(token) for token in tokens))
        # Text that is no beginning comes from another model, or from bytes that were no text: nothing to be learnt.
        return text[len(yielded) :] if text.startswith(yielded) else ""

    def split(self, text: bytes, count: int) -> tuple[int, ...] | None:
        """Return `count` token ids that make up `text`, or None if there are none or it is too much to search."""
        if count > _LOST_TOKENS_MAX or len(text) > _LOST_TOKENS_MAX * _CHARACTER_BYTES_MAX:
            return None
        if count == 0:
            return () if not text else None
        for size in range(1, len(text) - count + 2):
            token = self._ids.get(text[:size])
            rest = None if token is None else self.split(text[size:], count - 1)
            if token is not None and rest is not None:
                return (token, *rest)
        return None

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        # The first of several tokens of the same bytes wins; only broken text could tell them apart.
        ids: dict[bytes, int] = {}
        for token in range(len(self.tokens.texts)):
            text = self.bytes_of(token)
            if text:
                ids.setdefault(text, token)
        return ids


def _character_length(lead: int) -> int:
    """Return how many bytes a character with this first byte has; 0 for a byte that begins none."""
    if lead < 0x80:
        return 1
    if lead >= 0xF0:
        return 4
    if lead >= 0xE0:
        return 3
    return 2 if lead >= 0xC0 else 0
