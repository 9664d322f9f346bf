"""One completion inside llama.cpp: a thread that is blocked in the library, and the event loop that reads along.

`handle_completions` blocks its thread until the answer has ended and calls back once for each token. A callback that
returns True ends the completion at the next token, or at the next batch of the prompt (`return_progress` makes
llama.cpp call back there, too). The hand-over is bounded: a reader that falls behind blocks the callback, and with it
only this completion's thread.
"""

import asyncio
import concurrent.futures
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final, Protocol

from beeyard_core.limits import ENGINE_BACKLOG_CHUNKS_MAX

# llama.cpp's chunks are JSON objects; `llamacpp_answer` reads the few fields that matter.
Chunk = Mapping[str, Any]
_STOP: Final = True
_GO_ON: Final = False


class CompletionServer(Protocol):
    """What is used of `xllamacpp.Server`, which brings no types."""

    @property
    def listening_address(self) -> str:
        """URL of the library's own HTTP server."""
        ...

    def handle_completions(
        self, body: Mapping[str, Any], callback: Callable[[Chunk], bool]
    ) -> None:
        """Block until the completion has ended; call back for each chunk, stop when it returns True."""
        ...


class CompletionRun:
    """Runs one completion and yields its chunks; lives in one event loop."""

    def __init__(self) -> None:
        """Prepare; `start` begins."""
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[Chunk] = deque()  # bounded by `_room`
        self._room = threading.Semaphore(ENGINE_BACKLOG_CHUNKS_MAX)
        self._arrived = asyncio.Event()
        self._stopping = False
        self._ended = False
        self._work: concurrent.futures.Future[None] | None = None

    def start(
        self,
        server: CompletionServer,
        body: Mapping[str, Any],
        threads: concurrent.futures.Executor,
    ) -> None:
        """Begin in one of these threads. The server is not kept: whoever closes it holds the last reference."""
        self._work = threads.submit(server.handle_completions, body, self._on_chunk)
        # Posted after the last chunk, so that it runs after that: the loop keeps the order.
        self._work.add_done_callback(lambda _: self._post(self._end))

    async def batches(self) -> AsyncGenerator[list[Chunk], None]:
        """Yield the chunks that came since the last look, until the completion has ended."""
        assert self._work is not None, "start() comes first"
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            batch = list(self._chunks)
            self._chunks.clear()
            if batch:
                self._room.release(len(batch))
                yield batch
            if self._ended and not self._chunks:
                if not self._work.cancelled():
                    self._work.result()
                return

    async def stop(self) -> None:
        """Return once the completion has ended; it does so at its next callback."""
        self._stopping = True
        self._room.release()
        work = self._work
        if work is None or work.cancel() or work.done():
            return
        ended = asyncio.Event()
        work.add_done_callback(lambda _: self._post(ended.set))
        await ended.wait()

    def _on_chunk(self, chunk: Chunk) -> bool:
        """Take one chunk; runs in the completion's thread."""
        self._room.acquire()
        if self._stopping or not self._post(self._push, chunk):
            return _STOP
        return _GO_ON

    def _push(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self._arrived.set()

    def _end(self) -> None:
        self._ended = True
        self._arrived.set()

    def _post(self, call: Callable[..., None], *args: Chunk) -> bool:
        try:
            self._loop.call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop is closed: nobody reads along any more
            return False
        return True
