"""Protobuf messages as the JSON of `/v2`, and back.

Field for field what `protos/` says, under the same names, so that HTTP has no second contract that could fall behind.
It is not protobuf's own JSON mapping, for three reasons (docs/adr): that one writes 64-bit numbers as strings, which
every script would have to convert; it prefixes enum values with their type; and its errors name Python classes.
"""

import base64
import binascii
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from beeyard_gateway.faults import invalid

MessageT = TypeVar("MessageT", bound=Message)
_ALIASES: Final[Mapping[str, Mapping[str, str]]] = {
    "beeyard.queen.v1.Priority": {"HIGH": "INTERACTIVE", "LOW": "BATCH"},
}
_TIMESTAMP: Final = Timestamp.DESCRIPTOR.full_name
_INTEGERS: Final = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)
_REALS: Final = frozenset({FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT})


# --- Out ---
def to_json(message: Message) -> dict[str, Any]:
    """Return a message as plain values. A field that is not set and could be is left out, an enum without value too."""
    told = _telling(cast("Descriptor", message.DESCRIPTOR))
    shown = dict(told.defaults)
    for name in told.lists:
        shown[name] = []
    for name in told.maps:
        shown[name] = {}
    # Only what is set is looked at: of a large fleet's hundred thousand fields most are not.
    for field, value in message.ListFields():
        shown[field.name] = told.show[field.name](value)
    return shown


@dataclass(frozen=True, slots=True)
class _Telling:
    """How one kind of message is told; worked out once.

    Attributes:
        defaults: What fields that are always there have when they are not set.
        lists: The repeated fields.
        maps: The maps.
        show: Makes a plain value of a field's value.
    """

    defaults: Mapping[str, Any]
    lists: Sequence[str]
    maps: Sequence[str]
    show: Mapping[str, Callable[[Any], Any]]


@functools.cache
def _telling(descriptor: Descriptor) -> _Telling:
    fields = fields_of(descriptor)
    singular = [field for field in fields if not field.is_repeated]
    return _Telling(
        defaults={
            field.name: _show_one(field)(field.default_value)
            for field in singular
            if not field.has_presence and field.enum_type is None
        },
        lists=[field.name for field in fields if field.is_repeated and not is_map(field)],
        maps=[field.name for field in fields if is_map(field)],
        show={field.name: _show(field) for field in fields},
    )


def _show(field: FieldDescriptor) -> Callable[[Any], Any]:
    if is_map(field):
        one = _show_one(map_value(field))
        return lambda value: {str(key): one(item) for key, item in value.items()}
    one = _show_one(field)
    return (lambda value: [one(item) for item in value]) if field.is_repeated else one


def _show_one(field: FieldDescriptor) -> Callable[[Any], Any]:
    if field.message_type is not None:
        is_moment = field.message_type.full_name == _TIMESTAMP
        return Timestamp.ToJsonString if is_moment else to_json
    if field.enum_type is not None:
        return functools.partial(word_of, field.enum_type)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda value: base64.b64encode(value).decode()
    if field.cpp_type in _REALS:
        return lambda value: value if math.isfinite(value) else None
    return lambda value: value


def word_of(enum: EnumDescriptor, number: int) -> str:
    """Return the word for a value of an enum; of one that this version does not know, its number."""
    known = enum.values_by_number.get(number)
    return known.name.removeprefix(_prefix(enum)) if known else str(number)


def words_of(enum: EnumDescriptor) -> list[str]:
    """Return every word that a value of an enum may be given as; aliases are not among them."""
    return [one.name.removeprefix(_prefix(enum)) for one in enum.values if one.number]


def _prefix(enum: EnumDescriptor) -> str:
    """Return what every value's name begins with: that of the zero without UNSPECIFIED."""
    return str(enum.values_by_number[0].name).removesuffix("UNSPECIFIED")


def fields_of(descriptor: object) -> list[FieldDescriptor]:
    """Return the fields of a message's descriptor; the two implementations of it share no type."""
    return list(cast("Descriptor", descriptor).fields)


def map_value(field: FieldDescriptor) -> FieldDescriptor:
    """Return the values' field of a map."""
    return next(one for one in fields_of(field.message_type) if one.name == "value")


def is_map(field: FieldDescriptor) -> bool:
    """Whether a field is a map."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


# --- In ---
def from_json(value: object, kind: type[MessageT], *, path: str = "") -> MessageT:
    """Return the message that plain values describe.

    Args:
        value: What a client sent, parsed.
        kind: Which message.
        path: Where in the request it stands; empty: the request itself.

    Raises:
        Fault: INVALID_REQUEST with the field at fault: nobody knows it, or its value has the wrong type or range.
    """
    message = kind()
    _fill(message, value, path)
    return message


def _fill(message: Message, value: object, path: str) -> None:
    if not isinstance(value, Mapping):
        raise invalid(f"{path or 'the body'}: must be an object", field=path)
    known = {one.name: one for one in fields_of(message.DESCRIPTOR)}
    for name, one in value.items():
        at = f"{path}.{name}" if path else str(name)
        field = known.get(name)
        if field is None:
            raise invalid(f"{_cut(at)}: there is no such field", field=_cut(at))
        if one is None:
            continue
        oneof = field.containing_oneof
        if oneof is not None and message.WhichOneof(oneof.name) is not None:
            choices = ", ".join(one.name for one in oneof.fields)
            raise invalid(f"{at}: give only one of {choices}", field=at)
        _set(message, field, one, at)


def _set(message: Message, field: FieldDescriptor, value: object, path: str) -> None:
    try:
        if is_map(field):
            _set_map(message, field, value, path)
        elif field.is_repeated:
            _set_list(message, field, value, path)
        elif field.message_type is not None:
            inner = getattr(message, field.name)
            inner.SetInParent()
            _fill(inner, value, path)
        else:
            setattr(message, field.name, _scalar(field, value, path))
    except (ValueError, TypeError, OverflowError):
        raise invalid(f"{path}: is out of range", field=path) from None


def _set_map(message: Message, field: FieldDescriptor, value: object, path: str) -> None:
    if not isinstance(value, Mapping):
        raise invalid(f"{path}: must be an object", field=path)
    entry = map_value(field)
    target = getattr(message, field.name)
    for key, one in value.items():
        target[str(key)] = _scalar(entry, one, f"{path}.{_cut(str(key))}")


def _set_list(message: Message, field: FieldDescriptor, value: object, path: str) -> None:
    if not isinstance(value, list):
        raise invalid(f"{path}: must be a list", field=path)
    target = getattr(message, field.name)
    for index, one in enumerate(value):
        at = f"{path}[{index}]"
        if field.message_type is not None:
            _fill(target.add(), one, at)
        else:
            target.append(_scalar(field, one, at))


def _scalar(field: FieldDescriptor, value: object, path: str) -> object:
    if field.enum_type is not None:
        return number_of(field.enum_type, value, path)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return _bytes(value, path)
    words, fits = _KINDS[field.cpp_type]
    if not fits(value):
        raise invalid(f"{path}: must be {words}", field=path)
    if field.cpp_type in _INTEGERS:
        return int(cast("float", value))
    return value


def _is_integer(value: object) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_Fits = Callable[[object], bool]
_KINDS: Final[Mapping[int, tuple[str, _Fits]]] = {
    **dict.fromkeys(_INTEGERS, cast("tuple[str, _Fits]", ("a whole number", _is_integer))),
    **dict.fromkeys(_REALS, cast("tuple[str, _Fits]", ("a number", _is_real))),
    FieldDescriptor.CPPTYPE_BOOL: ("true or false", lambda value: isinstance(value, bool)),
    FieldDescriptor.CPPTYPE_STRING: ("a text", lambda value: isinstance(value, str)),
}


def number_of(enum: EnumDescriptor, value: object, path: str) -> int:
    """Return the number of an enum's value, given as a word in any case.

    Raises:
        Fault: INVALID_REQUEST: there is no such word; the message names those that there are.
    """
    known = words_of(enum)
    word = value.upper() if isinstance(value, str) else ""
    word = _ALIASES.get(enum.full_name, {}).get(word, word).removeprefix(_prefix(enum))
    if word not in known:
        aliases = [one.lower() for one in _ALIASES.get(enum.full_name, {})]
        told = ", ".join([*(one.lower() for one in known), *aliases])
        raise invalid(f"{path}: must be one of {told}", field=path)
    return int(enum.values_by_name[_prefix(enum) + word].number)


def _bytes(value: object, path: str) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "?", validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"{path}: must be base64", field=path) from None


def _cut(path: str) -> str:
    """Return a path that a client made up, short enough to be told back."""
    return path if len(path) <= 80 else f"{path[:77]}..."
