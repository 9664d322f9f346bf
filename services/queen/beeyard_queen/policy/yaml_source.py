"""Reads YAML that a stranger wrote into a tree of nodes, each of which knows its line and column.

PyYAML's own loaders build Python objects: they follow aliases (a few hundred bytes then stand for gigabytes), keep the
last of two equal keys without a word, recurse as deep as the text asks for, and read `on`, `1:30` and dates as what
nobody meant. So only its parser is used here, event by event; what becomes of an event is decided in this file, and
every limit holds while reading, not after. Scalars follow the core schema of YAML 1.2.
"""

import math
import re
from dataclasses import dataclass
from typing import Protocol

import yaml
from beeyard_core import limits

from beeyard_queen.policy.faults import PolicyInvalid

Value = str | int | float | bool | None
Plain = Value | list["Plain"] | dict[str, "Plain"]

_TAGS = {
    f"tag:yaml.org,2002:{name}": name
    for name in ("str", "int", "float", "bool", "null", "map", "seq")
}
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}
_TYPES: dict[str, type] = {"int": int, "float": float, "bool": bool, "null": type(None)}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
#: Every whole number up to here is exact in YAML, JSON, Lua and Python alike.
_EXACT_MAX = 2**53
_NUMBER_CHARACTERS_MAX = 64


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the text; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value, read by the core schema of YAML 1.2."""

    value: Value
    mark: Mark


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list of nodes."""

    items: tuple["Node", ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a mapping, with the place of the key, and its value."""

    key: str
    mark: Mark
    node: "Node"


@dataclass(frozen=True, slots=True)
class Mapping:
    """Keys and values, in the order of the text; no key stands twice."""

    entries: tuple[Entry, ...]
    mark: Mark

    def entry(self, key: str) -> Entry | None:
        """Return the entry of that key, or None."""
        return next((entry for entry in self.entries if entry.key == key), None)


Node = Scalar | Sequence | Mapping


def read_yaml(text: str | bytes) -> Node:
    """Return the one document in a YAML text as nodes.

    Args:
        text: The document; bytes are read as UTF-8.

    Returns:
        The document's root.

    Raises:
        PolicyInvalid: It is no YAML, or it breaks a limit or a rule of this file; with line and column.
    """
    source = _decoded(text)
    try:
        parser = yaml.SafeLoader(source)
    except yaml.reader.ReaderError as error:
        mark = _mark_at(source, error.position)
        raise PolicyInvalid(
            "not YAML: a character that YAML does not allow", mark.line, mark.column
        ) from None
    try:
        return _Reader(parser).document()
    except yaml.MarkedYAMLError as error:
        said = ", ".join(part for part in (error.context, error.problem) if part)[:200]
        where = error.problem_mark or error.context_mark
        raise PolicyInvalid(f"not YAML: {said}", *_place(where)) from None
    except (ValueError, OverflowError):
        # PyYAML converts the numbers of directives and escapes (`"\U00110000"`) without looking.
        where = parser.get_mark()
        raise PolicyInvalid("not YAML: a number out of its range", *_place(where)) from None
    finally:
        parser.dispose()


def plain(node: Node) -> Plain:
    """Return a node as plain Python values."""
    match node:
        case Scalar(value=value):
            return value
        case Sequence(items=items):
            return [plain(item) for item in items]
        case Mapping(entries=entries):
            return {entry.key: plain(entry.node) for entry in entries}


def locate(root: Node, path: tuple[str | int, ...], *, of_key: bool = False) -> tuple[Mark, str]:
    """Return the place of a field, and its path as an author writes it: `scheduler.rules[0].name`.

    Parts of the path that the text does not have (a field that is missing, a branch of the schema) are passed over,
    so that the answer is the nearest place that exists.

    Args:
        root: The document.
        path: Keys and indexes from the root.
        of_key: Return the place of the last key and not of its value.

    Returns:
        The mark of the value; for a key whose value is a mapping or a list, of the key. And the path to it.
    """
    node, mark, said = root, root.mark, ""
    for part in path:
        if isinstance(node, Mapping) and (entry := node.entry(str(part))):
            mark = entry.node.mark if isinstance(entry.node, Scalar) and not of_key else entry.mark
            node = entry.node
            said += f".{entry.key}" if said else entry.key
        elif isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            mark = node.mark
            said += f"[{part}]"
    return mark, said


def _decoded(text: str | bytes) -> str:
    size = len(text) if isinstance(text, bytes) else len(text.encode("utf-8", "surrogatepass"))
    if size > limits.POLICY_SOURCE_BYTES_MAX:
        raise PolicyInvalid(
            f"the text has {size} bytes; {limits.POLICY_SOURCE_BYTES_MAX} are the most", 1, 1
        )
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        mark = _mark_at(text[: error.start].decode("utf-8", "replace"), None)
        raise PolicyInvalid("the text is not UTF-8", mark.line, mark.column) from None


def _mark_at(source: str, position: int | None) -> Mark:
    before = source if position is None else source[:position]
    return Mark(before.count("\n") + 1, len(before) - before.rfind("\n"))


class _Marked(Protocol):
    """Where PyYAML's parser, in Python or C, says that something is; both count from 0."""

    line: int
    column: int


def _place(mark: _Marked | None) -> tuple[int, int]:
    return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)


class _Reader:
    """Turns the parser's events into nodes; the depth limit bounds its recursion."""

    def __init__(self, parser: yaml.SafeLoader) -> None:
        self._events = iter(parser.get_event, None)
        self._nodes = 0

    def document(self) -> Node:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.NodeEvent):
                if root is not None:
                    raise _refusal(event, "a policy is one document; a second one begins here")
                root = self._node(event, depth=1)
        if root is None:
            raise PolicyInvalid("the text is empty", 1, 1)
        return root

    def _node(self, event: yaml.Event, *, depth: int) -> Node:
        self._check(event, depth)
        mark = Mark(*_place(event.start_mark))
        match event:
            case yaml.ScalarEvent():
                return Scalar(_value(event), mark)
            case yaml.SequenceStartEvent():
                items: list[Node] = []
                while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
                    items.append(self._node(item, depth=depth + 1))
                return Sequence(tuple(items), mark)
            case _:
                return Mapping(self._entries(depth), mark)

    def _entries(self, depth: int) -> tuple[Entry, ...]:
        entries: dict[str, Entry] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            self._check(event, depth)
            if (
                not isinstance(event, yaml.ScalarEvent)
                or not event.value
                or not _is_text(event.value)
            ):
                raise _refusal(event, "a key must be a name")
            key, mark = event.value, Mark(*_place(event.start_mark))
            if key in entries:
                first = entries[key].mark.line
                raise _refusal(event, f"the key {quoted(key)} stands twice; first at line {first}")
            entries[key] = Entry(key, mark, self._node(next(self._events), depth=depth + 1))
        return tuple(entries.values())

    def _check(self, event: yaml.Event, depth: int) -> None:
        self._nodes += 1
        if isinstance(event, yaml.AliasEvent):
            raise _refusal(event, "aliases (*name) are not allowed; write the value out")
        if not isinstance(event, yaml.NodeEvent):
            raise _refusal(event, "a value was expected")
        if event.anchor is not None:
            raise _refusal(event, "anchors (&name) are not allowed; write values out")
        if depth > limits.POLICY_YAML_DEPTH_MAX:
            raise _refusal(event, f"nested deeper than {limits.POLICY_YAML_DEPTH_MAX} levels")
        if self._nodes > limits.POLICY_YAML_NODES_MAX:
            raise _refusal(event, f"more than {limits.POLICY_YAML_NODES_MAX} values")
        tag = getattr(event, "tag", None)
        if tag is not None and (tag not in _TAGS or not _fits(_TAGS[tag], event)):
            raise _refusal(event, f"the tag {quoted(tag)} is not allowed here; write a plain value")


def _fits(name: str, event: yaml.Event) -> bool:
    kinds = {"map": yaml.MappingStartEvent, "seq": yaml.SequenceStartEvent}
    return isinstance(event, kinds.get(name, yaml.ScalarEvent))


def _refusal(event: yaml.Event, message: str) -> PolicyInvalid:
    return PolicyInvalid(message, *_place(event.start_mark))


def quoted(text: str) -> str:
    """Return a stranger's text for a message: short, in quotes, on one line."""
    short = (
        text
        if len(text) <= limits.POLICY_YAML_QUOTE_CHARACTERS_MAX
        else (text[: limits.POLICY_YAML_QUOTE_CHARACTERS_MAX] + "…")
    )
    return '"' + "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in short) + '"'


def _value(event: yaml.ScalarEvent) -> Value:
    """Return what a scalar stands for; an explicit tag must agree with how the text reads."""
    text, tag = event.value, _TAGS.get(event.tag or "")
    if not _is_text(text):
        raise _refusal(event, "half of a character (a lone surrogate) is no text")
    if tag == "str" or (event.style is not None and tag is None):
        return str(text)
    value = _resolved(event, text)
    if tag == "float" and type(value) is int:
        return float(value)
    if tag is not None and type(value) is not _TYPES[tag]:
        raise _refusal(event, f"{quoted(text)} is no {tag}")
    return value


def _is_text(text: str) -> bool:
    return not any("\ud800" <= sign <= "\udfff" for sign in text)


def _resolved(event: yaml.ScalarEvent, text: str) -> Value:
    if text in _WORDS:
        return _WORDS[text]
    if _NOT_FINITE.fullmatch(text):
        raise _refusal(event, f"{text} is no number that a policy can use")
    is_int, is_float = _INT.fullmatch(text), _FLOAT.fullmatch(text)
    if not is_int and not is_float:
        return text
    if len(text) > _NUMBER_CHARACTERS_MAX:
        raise _refusal(event, f"the number {quoted(text)} is too long")
    if is_int:
        number = int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
        if abs(number) > _EXACT_MAX:
            raise _refusal(event, f"the number {text} is beyond {_EXACT_MAX}")
        return number
    fraction = float(text)
    if not math.isfinite(fraction):
        raise _refusal(event, f"the number {text} is too large")
    return fraction
