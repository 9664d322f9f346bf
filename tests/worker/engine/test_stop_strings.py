"""A stop string ends the answer at the same place however the text is cut into tokens."""

from beeyard_worker.engine.port import Token
from beeyard_worker.engine.stop_strings import StopScanner
from hypothesis import given, settings
from hypothesis import strategies as st

TEXTS = st.lists(st.text("ab#é", max_size=4), max_size=20)
STOPS = st.lists(st.text("ab#é", min_size=1, max_size=4), max_size=3)


def scan(pieces: list[str], stops: list[str], hidden: str = "") -> tuple[list[Token], bool]:
    scanner = StopScanner(stops, hidden=hidden)
    tokens: list[Token] = []
    for at, piece in enumerate(pieces):
        if scanner.matched:
            break
        tokens += scanner.feed([Token(at, piece)])
    if not scanner.matched:
        tokens += scanner.flush()
    return tokens, scanner.matched


@settings(deadline=None)  # a busy machine is no failure
@given(TEXTS, STOPS)
def test_what_comes_out_ends_before_the_first_stop_string(
    pieces: list[str], stops: list[str]
) -> None:
    tokens, matched = scan(pieces, stops)
    text, whole = "".join(token.text for token in tokens), "".join(pieces)
    assert whole.startswith(text)
    assert matched == any(stop in whole for stop in stops)
    assert not any(stop in text for stop in stops)
    if not matched:
        assert text == whole
        assert [token.text for token in tokens] == pieces


@settings(deadline=None)  # a busy machine is no failure
@given(TEXTS, STOPS)
def test_no_token_is_lost_or_comes_twice(pieces: list[str], stops: list[str]) -> None:
    tokens, matched = scan(pieces, stops)
    assert [token.id for token in tokens] == list(range(len(tokens)))
    if not matched:
        assert len(tokens) == len(pieces)


@settings(deadline=None)  # a busy machine is no failure
@given(TEXTS, STOPS, st.integers(0, 20))
def test_an_answer_continued_at_any_token_ends_at_the_same_place(
    pieces: list[str], stops: list[str], cut: int
) -> None:
    whole, matched = scan(pieces, stops)
    begun = whole[:cut]
    yielded = "".join(token.text for token in begun)
    hidden = "".join(pieces[: len(begun)])[len(yielded) :]
    rest, again = scan(pieces[len(begun) :], stops, hidden)
    assert again == matched
    assert yielded + "".join(token.text for token in rest) == "".join(t.text for t in whole)


def test_a_token_is_held_only_while_it_could_begin_a_stop_string() -> None:
    scanner = StopScanner(["END"])
    assert scanner.feed([Token(0, "a")]) == [Token(0, "a")]
    assert scanner.feed([Token(1, "bE"), Token(2, "N")]) == []
    assert scanner.feed([Token(3, "e")]) == [Token(1, "bE"), Token(2, "N"), Token(3, "e")]
    assert scanner.feed([Token(4, "xEN"), Token(5, "Dy")]) == [Token(4, "x"), Token(5, "")]
    assert scanner.matched
