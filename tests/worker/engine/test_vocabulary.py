"""Ids and bytes, for both ways in which models write their tokens."""

import pytest
from beeyard_runtime.models.gguf_file import GgufTokens, read_gguf_tokens
from beeyard_worker.engine.vocabulary import Vocabulary

from tests.support.tiny_gguf import tiny_gguf

BEE = "🐝".encode()


@pytest.fixture(scope="module")
def tiny() -> Vocabulary:
    return Vocabulary(read_gguf_tokens(tiny_gguf()))


def test_pieces_have_spaces_and_bytes(tiny: Vocabulary) -> None:
    texts = [tiny.bytes_of(token) for token in range(len(tiny.tokens.texts))]
    assert texts[:3] == [b"", b"", b""]
    assert texts[3 : 3 + 256] == [bytes((byte,)) for byte in range(256)]
    assert b" honey" in texts
    assert tiny.bytes_of(-1) == tiny.bytes_of(10_000) == b""


def test_byte_level_tokens_are_read_back() -> None:
    # As GPT-2's tables write them: U+0120 is the space, the others are bytes of a bee.
    texts = ("\u0120a", "\u00f0\u0141", "\u0132\u013f")
    tokens = GgufTokens("gpt2", tuple(text.encode() for text in texts), (1, 1, 1))
    vocabulary = Vocabulary(tokens)
    assert vocabulary.bytes_of(0) == b" a"
    assert vocabulary.bytes_of(1) + vocabulary.bytes_of(2) == BEE
    assert vocabulary.split(BEE, 2) == (1, 2)
    assert vocabulary.unfinished([0, 1]) == BEE[:2]


def test_hidden_tokens_are_found_by_their_bytes(tiny: Vocabulary) -> None:
    ids = tuple(3 + byte for byte in BEE)
    assert tiny.split(BEE[:3], 3) == ids[:3]
    assert tiny.split(b"", 0) == ()
    assert tiny.split(BEE[:3], 2) is None
    assert tiny.split(BEE * 20, 80) is None


@pytest.mark.parametrize(("count", "rest"), [(0, b""), (1, BEE[:1]), (3, BEE[:3]), (4, b"")])
def test_an_unfinished_character_is_the_tail_of_the_bytes(
    tiny: Vocabulary, count: int, rest: bytes
) -> None:
    ids = [3 + byte for byte in BEE][:count]
    assert tiny.unfinished([3 + ord("a"), *ids]) == rest


def test_hidden_text_is_what_was_not_yielded(tiny: Vocabulary) -> None:
    ids = [3 + byte for byte in b"abcd"]
    assert tiny.hidden(ids, "ab") == "cd"
    assert tiny.hidden(ids, "abcd") == ""
    assert tiny.hidden(ids, "something else") == ""
