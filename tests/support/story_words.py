"""The words of one command of a story; `transcript.py` says what they mean."""

import re
from collections.abc import Callable

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "k": 1_000, "g": 1 << 30, "": 1}
_PAIR = re.compile(r"(\w+)=(.*)")


def number_of(text: str) -> int:
    """Return `5s` as 5000, `4g` as 4 GiB, `7` as 7."""
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    return int(float(digits) * _UNITS[text[len(digits) :]])


class Words:
    """The words of one command, each of which must be used."""

    def __init__(self, line: str) -> None:
        """Split a line into plain words and pairs."""
        words = line.split()
        self.verb = words[0]
        self._plain = [word for word in words[1:] if not _PAIR.fullmatch(word)]
        pairs = [match for word in words[1:] if (match := _PAIR.fullmatch(word))]
        self._pairs = {match[1]: match[2] for match in pairs}

    def __contains__(self, name: str) -> bool:
        """Whether a pair is there that nobody took."""
        return name in self._pairs

    def next(self) -> str:
        """Take the next plain word."""
        return self._plain.pop(0)

    def flag(self, name: str) -> bool:
        """Take a plain word that may be there."""
        if name not in self._plain:
            return False
        self._plain.remove(name)
        return True

    def text(self, name: str, otherwise: str = "") -> str:
        """Take the value of a pair."""
        return self._pairs.pop(name, otherwise)

    def number(self, name: str, otherwise: int = 0) -> int:
        """Take the value of a pair as a number with its unit."""
        return number_of(self._pairs.pop(name)) if name in self._pairs else otherwise

    def several(self, name: str) -> tuple[str, ...]:
        """Take the value of a pair as a list."""
        return tuple(self._pairs.pop(name).split(",")) if self._pairs.get(name) else ()

    def given(self, **kinds: Callable[[str], object]) -> dict[str, object]:
        """Take those pairs that are there, converted."""
        return {
            name: kind(self._pairs.pop(name)) for name, kind in kinds.items() if name in self._pairs
        }

    def finish(self) -> None:
        """Fail on what nobody took: a story with a typing error proves nothing."""
        assert not self._plain, f"{self.verb}: what is {self._plain}?"
        assert not self._pairs, f"{self.verb}: what is {self._pairs}?"
