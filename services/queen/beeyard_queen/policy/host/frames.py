"""How the queen and its hosts separate messages: four bytes of length, little-endian, then MessagePack."""

import os
import struct
from typing import Final

_LENGTH: Final = struct.Struct("<I")
_READ_BYTES: Final = 1 << 16


class FrameReader:
    """Reads messages from a blocking stream, most of them in one call of the kernel's."""

    def __init__(self, descriptor: int, bytes_max: int) -> None:
        """Begin.

        Args:
            descriptor: The stream.
            bytes_max: A longer message is a fault of the other side.
        """
        self._descriptor = descriptor
        self._bytes_max = bytes_max
        self._taken = bytearray()

    def read(self) -> bytes | None:
        """Return the next message, waiting for it; None at the end of the stream.

        Raises:
            ValueError: The message is longer, or the stream ended within it.
        """
        taken = self._taken
        while (end := self._end_of_first()) is None:
            part = os.read(self._descriptor, _READ_BYTES)
            if not part:
                if taken:
                    raise ValueError("the stream ended within a message")
                return None
            taken += part
        body = bytes(taken[_LENGTH.size : end])
        del taken[:end]
        return body

    def _end_of_first(self) -> int | None:
        if len(self._taken) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._taken)
        if length > self._bytes_max:
            raise ValueError(f"a message of {length} bytes")
        end: int = _LENGTH.size + length
        return end if len(self._taken) >= end else None


def write_frame(descriptor: int, body: bytes) -> None:
    """Write one message, all of it."""
    rest = memoryview(_LENGTH.pack(len(body)) + body)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
