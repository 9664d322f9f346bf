"""A policy's text, made ready to run: whatever it is written in, what runs is Lua.

Pure and bounded, but a YAML file at the limit takes a good part of a second: call it on a thread where an event loop
runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from beeyard_core import limits

from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.yaml_compile import compile_policy, yaml_line_of
from beeyard_queen.policy.yaml_rules import read_policy
from beeyard_queen.store.versions import Language

_YAML_SUFFIXES: Final = {".yaml", ".yml"}
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Program:
    """What a policy's host is given.

    Attributes:
        language: What the author wrote it in.
        text: The author's own words.
        lua: What runs.
        name: What the text calls itself; empty if it does not say.
    """

    language: Language
    text: bytes
    lua: bytes
    name: str = ""

    def line_of(self, lua_line: int | None) -> int | None:
        """Return the author's line for a line of the Lua; None where it cannot be known."""
        if lua_line is None or self.language == "lua":
            return lua_line
        return yaml_line_of(self.lua.decode(), lua_line)


def make_program(language: Language, text: bytes) -> Program:
    """Return what runs for a text.

    Raises:
        PolicyInvalid: It is too long, or YAML that is wrong, with line and column.
    """
    text = text.removeprefix(_BYTE_ORDER_MARK)
    if len(text) > limits.POLICY_SOURCE_BYTES_MAX:
        most = limits.POLICY_SOURCE_BYTES_MAX
        raise PolicyInvalid(f"the policy is longer than {most} bytes, the most that is taken")
    if language == "lua":
        return Program("lua", text, text)
    policy = read_policy(text)
    return Program("yaml", text, compile_policy(policy).encode(), policy.name)


def language_of(path: Path) -> Language:
    """Return what a file is written in, by its name."""
    return "yaml" if path.suffix in _YAML_SUFFIXES else "lua"


def read_text(path: Path) -> bytes:
    """Return the first bytes of a policy's file; one more than may be is enough to be refused.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        return file.read(limits.POLICY_SOURCE_BYTES_MAX + len(_BYTE_ORDER_MARK) + 1)


def read_program(path: Path) -> Program:
    """Return what runs for a file.

    Raises:
        PolicyInvalid: As for `make_program`.
        OSError: The file cannot be read.
    """
    return make_program(language_of(path), read_text(path))
