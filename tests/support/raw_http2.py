"""HTTP/2 frames made by hand, for tests of what a server does with peers that no library would let one be.

Only what such tests need of RFC 9113 and RFC 7541: headers are literals that are not indexed, without Huffman coding.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4
CANCEL: Final = struct.pack(">I", 8)
PATIENCE_S: Final = 20.0

Pair = tuple[bytes, bytes]


def frame(kind: int, payload: bytes = b"", *, stream: int = 0, flags: int = 0) -> bytes:
    """Return one frame."""
    head = struct.pack(">I", len(payload))[1:] + bytes((kind, flags))
    return head + struct.pack(">I", stream) + payload


def begin() -> bytes:
    """Return what each connection begins with."""
    return PREFACE + frame(SETTINGS)


def block(path: str, more: Sequence[Pair] = ()) -> bytes:
    """Return the headers of a call."""
    usual = (
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"queen"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
    return b"".join(literal(name, value) for name, value in (*usual, *more))


def call(path: str, stream: int, more: Sequence[Pair] = ()) -> bytes:
    """Return a call opened, without a request."""
    return frame(HEADERS, block(path, more), stream=stream, flags=END_HEADERS)


def literal(name: bytes, value: bytes) -> bytes:
    """Return one header."""
    return b"\0" + _length(len(name)) + name + _length(len(value)) + value


def _length(number: int) -> bytes:
    if number < 0x7F:
        return bytes((number,))
    rest, out = number - 0x7F, bytearray((0x7F,))
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes((*out, rest))


@asynccontextmanager
async def connected(address: str) -> AsyncIterator["Peer"]:
    """Open a connection to `host:port`, and break it when the block ends."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        yield Peer(reader, writer)
    finally:
        # Not closed with good manners: what was not sent is dropped.
        writer.transport.abort()


class Peer:
    """The end of a connection that writes what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, raw: bytes) -> bool:
        """Write bytes; return whether the server still took them."""
        try:
            self._writer.write(raw)
            async with asyncio.timeout(PATIENCE_S):
                await self._writer.drain()
        except ConnectionError:
            return False
        return True

    async def hear(self, marker: bytes) -> bytes:
        """Return what the server wrote until these bytes and what came with them, or until it hung up."""
        heard = bytearray()
        try:
            async with asyncio.timeout(PATIENCE_S):
                while marker not in heard and (got := await self._reader.read(1 << 16)):
                    heard += got
        except ConnectionError:
            pass
        return bytes(heard)
