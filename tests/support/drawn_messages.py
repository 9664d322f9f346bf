"""Messages drawn by chance from their descriptors alone: nearly right ones, absurd ones, and bytes that are none.

A message that is wrong everywhere is refused at its first field, so each is drawn with a wildness of its own: from all
fields plausible, which gets furthest in, to none. Nothing drawn looks like a path or a class, so that a status that
shows one has shown the server's and not the caller's.
"""

import random
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

#: A descriptor; the two implementations of protobuf have a class of their own each, with the same attributes.
Field: TypeAlias = Any
Words: TypeAlias = dict[str, tuple[str, ...]]

_DEPTH_MAX: Final = 4
_WILDNESS: Final = (0.0, 0.0, 0.05, 0.3, 1.0)
_FULLNESS: Final = (0.15, 0.5, 0.9)
_INTS: Final = {
    FieldDescriptor.CPPTYPE_INT32: (31, True),
    FieldDescriptor.CPPTYPE_INT64: (63, True),
    FieldDescriptor.CPPTYPE_UINT32: (32, False),
    FieldDescriptor.CPPTYPE_UINT64: (64, False),
}
_FLOATS: Final = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
_ODD_FLOATS: Final = (float("nan"), float("inf"), float("-inf"), -0.0, -1.0, 1e308, 5e-324)
_ODD_TEXTS: Final = (
    *("", " ", "\0", "\n\r\t", "%s%n", "{0.x}", "é" * 300, "🐝" * 70, "\u202e\ufeff", "-1", "NaN"),
    *("x" * 257, "x" * 70_000, '"];end', "${x}", "0" * 30, "'--", "a,b=c"),
)
#: A field that nobody knows: number 1000, once as a number and once as text.
_UNKNOWN: Final = (b"\xc0\x3e\x01", b"\xc2\x3e\x03abc")
#: Lengths far beyond the end, a number that never ends, a group that is never closed, the field number 0.
_BOMBS: Final = (
    b"\x0a\xff\xff\xff\xff\x07",
    b"\x12" + b"\xff" * 9 + b"\x01",
    b"\x08\xff",
    b"\x0b",
    b"\0",
)


class Drawer:
    """Draws messages.

    Attributes:
        chance: What it draws from; the same seed draws the same messages.
        words: What a text field of a name may plausibly say; under "" what any may.
    """

    def __init__(self, chance: random.Random, words: Words) -> None:
        self.chance = chance
        self.words = words

    def body(self, kind: type[Message], about: Message | None = None) -> bytes:
        """Return the bytes of a message, or what is left of them once spoilt.

        Args:
            kind: The class of the message.
            about: What it changes a little instead of filling an empty one.
        """
        message = self.message(kind, about)
        raw = message.SerializeToString()
        return self._spoilt(raw) if self.chance.random() < 0.4 else raw

    def message(self, kind: type[Message], about: Message | None = None) -> Message:
        """Return a message of a class."""
        message = kind()
        wildness, fullness = self.chance.choice(_WILDNESS), self.chance.choice(_FULLNESS)
        if about is not None:
            message.MergeFromString(about.SerializeToString())  # the class may be of another pool
            fullness = self.chance.choice((0.0, 0.05, 0.15))
        self._fill(message, wildness, fullness, 0)
        return message

    def _fill(self, message: Message, wildness: float, fullness: float, depth: int) -> None:
        for field in message.DESCRIPTOR.fields:
            if self.chance.random() >= fullness:
                continue
            if field.is_repeated:
                self._fill_many(message, field, wildness, fullness, depth)
            elif field.message_type is None:
                setattr(message, field.name, self._value(field, wildness))
            elif depth < _DEPTH_MAX:
                inner = getattr(message, field.name)
                inner.SetInParent()
                self._fill(inner, wildness, fullness, depth + 1)

    def _fill_many(
        self,
        message: Message,
        field: Field,
        wildness: float,
        fullness: float,
        depth: int,
    ) -> None:
        many: Any = getattr(message, field.name)
        is_wild = self.chance.random() < wildness
        count = self.chance.choice((0, 1, 17, 70)) if is_wild else self.chance.randint(1, 2)
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            of_key, of_value = kind.fields_by_name["key"], kind.fields_by_name["value"]
            for _ in range(count):
                if of_value.message_type is None:
                    many[self._value(of_key, wildness)] = self._value(of_value, wildness)
        elif kind is None:
            many.extend(self._value(field, wildness) for _ in range(count))
        elif depth < _DEPTH_MAX:
            for _ in range(min(count, 17)):
                self._fill(many.add(), wildness, fullness, depth + 1)

    def _value(self, field: Field, wildness: float) -> Any:
        is_wild = self.chance.random() < wildness
        kind = field.cpp_type
        if kind in _INTS:
            return self._int(*_INTS[kind], is_wild=is_wild)
        if kind in _FLOATS:
            return self.chance.choice(_ODD_FLOATS) if is_wild else self.chance.random()
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return self.chance.random() < 0.5
        if kind == FieldDescriptor.CPPTYPE_ENUM:
            known = [value.number for value in field.enum_type.values]
            return self.chance.choice((-1, 99, 2**31 - 1)) if is_wild else self.chance.choice(known)
        text = self._text(field.name, is_wild=is_wild)
        return text.encode() if field.type == FieldDescriptor.TYPE_BYTES else text

    def _int(self, bits: int, signed: bool, *, is_wild: bool) -> int:
        if not is_wild:
            return self.chance.choice((0, 1, 1, 2, 3, 5))
        largest = 2**bits - 1
        odd = (largest, largest - 1, largest // 2 + 1, 0, 1_000_000)
        return self.chance.choice((*odd, -largest - 1, -1) if signed else odd)

    def _text(self, name: str, *, is_wild: bool) -> str:
        if is_wild:
            return self.chance.choice(_ODD_TEXTS)
        return self.chance.choice(self.words.get(name) or self.words[""])

    def _spoilt(self, raw: bytes) -> bytes:
        body = bytearray(raw or b"\x0a\x01a")
        at = self.chance.randrange(len(body))
        match self.chance.randrange(6):
            case 0:
                for _ in range(self.chance.choice((1, 1, 8))):
                    body[self.chance.randrange(len(body))] ^= 1 << self.chance.randrange(8)
            case 1:
                del body[at:]
            case 2:
                body[at:at] = self.chance.choice(_BOMBS)
            case 3:
                body += self.chance.choice(_UNKNOWN)
            case 4:
                body[at:at] = body[at:] * 2
            case _:
                return self.chance.randbytes(self.chance.choice((1, 9, 200)))
        return bytes(body)
