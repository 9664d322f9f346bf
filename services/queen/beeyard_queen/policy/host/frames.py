"""How the queen and its hosts separate messages: four bytes of length, little-endian, then MessagePack."""

import os
import struct
from typing import Final

_LENGTH: Final = struct.Struct("<I")


def read_frame(descriptor: int, bytes_max: int) -> bytearray | None:
    """Return the next message, waiting for it; None at the end of the stream.

    Args:
        descriptor: A blocking stream.
        bytes_max: A longer message is a fault of the other side.

    Raises:
        ValueError: The message is longer, or the stream ended within it.
    """
    head = _read_exactly(descriptor, _LENGTH.size)
    if head is None:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > bytes_max:
        raise ValueError(f"a message of {length} bytes")
    body = _read_exactly(descriptor, length)
    if body is None:
        raise ValueError("the stream ended within a message")
    return body


def write_frame(descriptor: int, body: bytes) -> None:
    """Write one message, all of it."""
    rest = memoryview(_LENGTH.pack(len(body)) + body)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read_exactly(descriptor: int, count: int) -> bytearray | None:
    taken = bytearray()
    while len(taken) < count:
        part = os.read(descriptor, count - len(taken))
        if not part:
            if taken:
                raise ValueError("the stream ended within a message")
            return None
        taken += part
    return taken
