"""The decision journal on disk: what is in a file, written and read. docs/policies/journal.md describes the same.

A file is a sequence of entries, each four bytes of length, little-endian, then MessagePack: an array that begins with
the entry's kind. Every file can be replayed by itself, since it begins with the world as it was.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import Final, NamedTuple

import msgpack
from beeyard_core import limits
from beeyard_core.policy.intent import Intent

from beeyard_queen.policy.deltas import Delta
from beeyard_queen.policy.lua_source import context_texts, lua_text

FORMAT: Final = "beeyard decision journal"
VERSION: Final = 1
SUFFIX: Final = ".journal"
_HEAD: Final = 4
#: The position of a decision that was asked for before its file began: it cannot be replayed from there.
BEFORE: Final = -1


class JournalInvalid(Exception):
    """This is no decision journal, or one of another version. The text says where."""


class Opening(NamedTuple):
    """The first entry. `context` is the digest of the Lua files that every policy is called through."""

    format: str
    version: int
    context: str


class WorldEntry(NamedTuple):
    """A part of the world at the beginning, as deltas for an empty mirror."""

    deltas: list[Delta]


class PolicyEntry(NamedTuple):
    """A policy of the operator's that decides in this file."""

    digest: str
    label: str
    source: bytes


class StateEntry(NamedTuple):
    """What `context.state` of a policy held before its first decision in this file."""

    digest: str
    state: bytes


class DeltasEntry(NamedTuple):
    """Changes of the world, in their order."""

    deltas: list[Delta]


class DecisionEntry(NamedTuple):
    """One decision and all that it depended on.

    Attributes:
        position: How many `deltas` entries of this file the policy had seen; BEFORE: it was asked before the file.
        state_version: The queen's version of the state.
        label: The policy, as `name@version`.
        digest: Of its text.
        now_ms: The instant that it saw.
        seed: What its chance was drawn from.
        decided: The bytes of the decision.
        state: What `context.state` held afterwards, if that changed.
    """

    position: int
    state_version: int
    label: str
    digest: str
    now_ms: int
    seed: int
    decided: bytes
    state: bytes | None


Entry = Opening | WorldEntry | PolicyEntry | StateEntry | DeltasEntry | DecisionEntry
_KINDS: Final[dict[str, type[Entry]]] = {
    "journal": Opening,
    "world": WorldEntry,
    "policy": PolicyEntry,
    "state": StateEntry,
    "deltas": DeltasEntry,
    "decision": DecisionEntry,
}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}


def intent_bytes(intent: Intent) -> bytes:
    """Return an intent as bytes: equal intents give equal ones."""
    fields = [getattr(intent, name) for name in intent.__slots__]
    packed: bytes = msgpack.packb((intent.action, *fields))
    return packed


@cache
def context_digest() -> str:
    """Return the digest of the mirror, the views and the functions of this Beeyard."""
    return hashlib.sha256("\0".join(context_texts()).encode()).hexdigest()


@cache
def platform_digest() -> str:
    """Return the digest that decisions of this Beeyard's platform policy carry."""
    return hashlib.sha256(lua_text("platform.lua").encode()).hexdigest()


def pack_entry(entry: Entry) -> bytes:
    """Return an entry as it stands in a file."""
    body: bytes = msgpack.packb((_NAMES[type(entry)], *entry))
    return len(body).to_bytes(_HEAD, "little") + body


def journal_files(folder: Path) -> list[Path]:
    """Return the files of a journal, the oldest first; a file of another name is somebody else's."""
    return sorted(folder.glob(f"decisions-{'[0-9]' * 10}{SUFFIX}"))


@dataclass
class JournalReader:
    """One file, read from its beginning.

    Attributes:
        torn_bytes: What is left at the end of no whole entry: the queen was killed while it wrote.
    """

    path: Path
    torn_bytes: int = 0

    def entries(self, *only: type[Entry]) -> Iterator[tuple[int, Entry]]:
        """Yield each entry and where the next begins, in bytes.

        Args:
            only: Entries of other kinds are passed over, which is much faster than reading them; none: all are read.

        Raises:
            JournalInvalid: It is not what it should be.
            OSError: The file cannot be read.
        """
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            at = 0
            prefixes = tuple(map(_prefix_of, only)) or b""
            while (body := self._body(file, size - at)) is not None:
                if at and not body.startswith(prefixes):
                    at += _HEAD + len(body)
                    continue
                entry = _read(body, at)
                if (at == 0) != isinstance(entry, Opening):
                    raise JournalInvalid(f"byte {at}: not the opening of a decision journal")
                at += _HEAD + len(body)
                yield at, entry
            if at == 0:
                raise JournalInvalid("it is empty")

    def _body(self, file: BufferedReader, left: int) -> bytes | None:
        head = file.read(_HEAD)
        length = int.from_bytes(head, "little")
        if len(head) < _HEAD or length > left - _HEAD:
            self.torn_bytes = left
            return None
        if length > limits.POLICY_JOURNAL_ENTRY_BYTES_MAX:
            raise JournalInvalid(f"{left} bytes before the end: an entry of {length} bytes")
        return file.read(length)


def _prefix_of(kind: type[Entry]) -> bytes:
    """Return what every entry of a kind begins with: the number of its fields and its name."""
    name = _NAMES[kind]
    body: bytes = msgpack.packb((name, *kind._fields))
    return body[: 2 + len(name)]


def _read(body: bytes, at: int) -> Entry:
    try:
        match msgpack.unpackb(body, raw=False, use_list=False):
            case (str(name), *fields) if name in _KINDS:
                entry = _KINDS[name](*fields)
            case _:
                raise JournalInvalid(f"byte {at}: no entry of a decision journal")
    except (ValueError, TypeError, msgpack.UnpackException) as fault:
        raise JournalInvalid(f"byte {at}: no entry of a decision journal") from fault
    if isinstance(entry, Opening) and (entry.format, entry.version) != (FORMAT, VERSION):
        raise JournalInvalid(f"not a decision journal of version {VERSION}")
    return entry
