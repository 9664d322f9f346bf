"""Ends an answer exactly before a stop string, also where the string spans several tokens.

A token whose text could be the beginning of a stop string is held back, whole, until the next ones decide. So what has
been yielded is never taken back, and an answer that is continued elsewhere never begins within a possible match.
"""

from collections.abc import Iterable, Sequence

from beeyard_worker.engine.port import Token


class StopScanner:
    """Looks at the tokens of one answer in order."""

    def __init__(self, stops: Iterable[str], *, hidden: str = "") -> None:
        """Look for any of these strings; empty ones are ignored.

        Args:
            stops: The strings.
            hidden: Text of resumed tokens that was never yielded, since the earlier attempt took it for a stop string
                and ended before it could say so. Usually none.
        """
        self._stops = tuple(stop for stop in stops if stop)
        self._hidden = hidden
        self._held: list[Token] = []
        self.matched = any(stop in hidden for stop in self._stops)

    def feed(self, tokens: Sequence[Token]) -> list[Token]:
        """Return the tokens that are certain now. Once `matched`, they are the last ones and end before the match."""
        if not self._stops:
            return list(tokens)
        safe: list[Token] = []
        for token in tokens:
            if self.matched:
                break
            self._held.append(token)
            safe += self._decide()
        return safe

    def flush(self) -> list[Token]:
        """Return what is still held back; the answer has ended without a match."""
        held, self._held = self._held, []
        return held

    def _decide(self) -> list[Token]:
        text = self._hidden + "".join(token.text for token in self._held)
        begins = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if begins:
            self.matched = True
            return _cut(self.flush(), min(begins) - len(self._hidden))
        certain = len(text) - max(_overlap(text, stop) for stop in self._stops)
        passed, self._hidden = self._hidden[:certain], self._hidden[certain:]
        certain -= len(passed)
        safe: list[Token] = []
        while self._held and len(self._held[0].text) <= certain:
            certain -= len(self._held[0].text)
            safe.append(self._held.pop(0))
        return safe


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a beginning of `stop`."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0


def _cut(tokens: Sequence[Token], size: int) -> list[Token]:
    """Return the tokens with only the first `size` characters of their text."""
    kept: list[Token] = []
    for token in tokens:
        text = token.text[: max(size, 0)]
        size -= len(token.text)
        kept.append(token if text == token.text else Token(token.id, text))
    return kept
