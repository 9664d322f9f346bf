"""The patterns of `matches`: the part of regular expressions that Lua's own matcher can do in bounded time.

An author knows regular expressions, a sandbox must not run them: backtracking is how a short text stops a machine.
What is left in (letters, `.`, classes, one repetition after each, the two anchors) means exactly the same as a Lua
pattern, which runs at the speed of C inside the policy host, and as a Python expression, which the oracle uses. Groups
and alternatives are left out; `any` says those better. Repetitions are counted, and with many of them only short values
are looked at, so that the work is bounded by construction and never meets the sandbox's own guard.
"""

import re
from dataclasses import dataclass

from beeyard_core import limits

_CLASSES = {"d": ("%d", "0-9"), "w": ("[%w_]", "A-Za-z0-9_"), "s": ("%s", r"\s")}
_IN_SET = {"d": "%d", "w": "%w_", "s": "%s"}


class PatternInvalid(ValueError):
    """The pattern uses what is not offered. The message says what, and what to write instead."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern in both languages.

    Attributes:
        lua: For `string.find`.
        python: The same for `re`, on bytes.
        bytes_max: Longer values never match.
    """

    lua: str
    python: re.Pattern[bytes]
    bytes_max: int

    def matches(self, value: str) -> bool:
        """Return whether the pattern is found somewhere in the value."""
        raw = value.encode("utf-8", "surrogateescape")
        return len(raw) <= self.bytes_max and self.python.search(raw) is not None


def read_pattern(text: str) -> Pattern:
    """Return a pattern of `matches` in both languages.

    Args:
        text: A regular expression without groups and alternatives; ASCII.

    Raises:
        PatternInvalid: It uses more than that, or is too long or too costly.
    """
    if not text or len(text) > limits.POLICY_PATTERN_CHARACTERS_MAX:
        raise PatternInvalid(
            f"a pattern has 1 to {limits.POLICY_PATTERN_CHARACTERS_MAX} characters"
        )
    if not text.isascii() or not text.isprintable():
        raise PatternInvalid("a pattern is printable ASCII; use contains for other text")
    return _Parser(text).pattern()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lua: list[str] = []
        self._python: list[str] = []
        self._repeats = 0
        self._optional = 0

    def pattern(self) -> Pattern:
        self._anchor("^", r"\A")
        while self._at < len(self._text):
            if self._text[self._at :] == "$":
                self._anchor("$", r"\Z")
                break
            self._item()
        bytes_max = self._bytes_max()
        if bytes_max < limits.POLICY_PATTERN_VALUE_BYTES_MIN:
            raise PatternInvalid("too many of * + ? in one pattern; begin it with ^ or use fewer")
        python = re.compile("".join(self._python).encode("ascii"), re.DOTALL)
        return Pattern("".join(self._lua), python, bytes_max)

    def _bytes_max(self) -> int:
        """Return the longest value for which the steps are bounded as they must be."""
        # Each place to begin and each open repetition may try every length; each optional item doubles that.
        factors = self._repeats + (not self._text.startswith("^"))
        steps = limits.POLICY_PATTERN_STEPS_MAX >> self._optional
        longest = limits.POLICY_TEXT_BYTES_MAX
        while longest > 0 and (longest + 1) ** factors > steps:
            longest -= 1
        return longest

    def _anchor(self, sign: str, python: str) -> None:
        if self._text.startswith(sign, self._at):
            self._at += 1
            self._lua.append(sign)
            self._python.append(python)

    def _item(self) -> None:
        lua, python = self._atom()
        sign = self._text[self._at : self._at + 1]
        if sign and sign in "*+?":
            self._at += 1
            self._repeats += sign != "?"
            self._optional += sign == "?"
            lua, python = lua + sign, python + sign
            if self._text[self._at : self._at + 1] in {"*", "+", "?"}:
                raise PatternInvalid("one of * + ? may follow a character, not two")
        self._lua.append(lua)
        self._python.append(python)

    def _take(self) -> str:
        if self._at >= len(self._text):
            raise PatternInvalid("the pattern ends too early")
        self._at += 1
        return self._text[self._at - 1]

    def _atom(self) -> tuple[str, str]:
        sign = self._take()
        match sign:
            case ".":
                return ".", "."
            case "[":
                return self._set()
            case "\\":
                escaped = self._take()
                if escaped in _CLASSES:
                    lua, python = _CLASSES[escaped]
                    return lua, f"[{python}]"
                return self._escaped(escaped)
            case "(" | ")" | "|":
                raise PatternInvalid(f"{sign} is not offered: use any with several tests")
            case "{" | "}" | "*" | "+" | "?" | "^" | "$" | "]":
                raise PatternInvalid(
                    f"{sign} has no meaning here; write \\{sign} for the sign itself"
                )
            case _:
                return _literal(sign)

    @staticmethod
    def _escaped(sign: str) -> tuple[str, str]:
        if sign.isalnum():
            raise PatternInvalid(f"\\{sign} is not offered; there are \\d, \\w and \\s")
        return _literal(sign)

    def _set(self) -> tuple[str, str]:
        negated = "^" if self._text.startswith("^", self._at) else ""
        self._at += len(negated)
        lua, python = "", ""
        while (sign := self._take()) != "]":
            if sign == "[":
                raise PatternInvalid("[ inside a set is written \\[")
            if sign == "\\" and (named := self._take()) in _IN_SET:
                lua, python = lua + _IN_SET[named], python + _CLASSES[named][1]
                continue
            sign = self._escaped(named)[0][-1] if sign == "\\" else sign
            if (
                self._text.startswith("-", self._at)
                and self._text[self._at + 1 : self._at + 2] != "]"
            ):
                last = self._range_end(sign)
                lua, python = f"{lua}{sign}-{last}", f"{python}{sign}-{last}"
            else:
                lua, python = lua + _literal(sign)[0], python + _literal(sign)[1]
        if not lua:
            raise PatternInvalid("the set [] is empty")
        return f"[{negated}{lua}]", f"[{negated}{python}]"

    def _range_end(self, first: str) -> str:
        self._at += 1
        last = self._take()
        kinds = (str.isdigit, str.islower, str.isupper)
        if first > last or not any(kind(first) and kind(last) for kind in kinds):
            raise PatternInvalid(f"{first}-{last} is no range of letters or digits")
        return last


def _literal(sign: str) -> tuple[str, str]:
    if sign.isalnum():
        return sign, sign
    # Lua: % before any punctuation is the sign itself; Python: re.escape knows.
    return ("%" + sign if sign != " " else sign), re.escape(sign)
