"""A TCP link that goes silent without being closed, as when a router forgets it or the peer's machine is unplugged."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class SilentLink:
    """A forwarder between two processes.

    Attributes:
        address: Where it listens, `host:port`.
    """

    def __init__(self, target: str) -> None:
        """Forward to `target` until `cut`."""
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._open = asyncio.Event()
        self._open.set()
        self._pipes: set[asyncio.Task[None]] = set()
        self._sinks: list[asyncio.StreamWriter] = []
        self.address = ""

    def cut(self) -> None:
        """Forward nothing any more, in either direction; every connection stays open."""
        self._open.clear()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        there_reader, there_writer = await asyncio.open_connection(*self._target)
        for source, sink in ((reader, there_writer), (there_reader, writer)):
            self._sinks.append(sink)
            self._pipes.add(asyncio.create_task(self._pipe(source, sink)))

    async def close(self) -> None:
        """End every connection."""
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)
        for sink in self._sinks:
            # What nobody reads would keep a connection open beyond the event loop.
            sink.transport.abort()
        await asyncio.sleep(0)

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                await self._open.wait()
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()


@asynccontextmanager
async def silent_link(target: str) -> AsyncIterator[SilentLink]:
    """Open a link to `target` until the block ends."""
    link = SilentLink(target)
    server = await asyncio.start_server(link.accept, "127.0.0.1", 0)
    link.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield link
    finally:
        server.close()
        await link.close()
        await server.wait_closed()
