"""The controls: the least that a server, a relay and a source in Python can do over grpc.aio. No queue, no store.

`relay` takes one stream from a source and serves each client its part, passing bytes through; `source` sends one token
a message for each stream in turn, as fast as the relay takes them; `answer` attaches to a relay and answers each job
that comes down with one token. The relay's `Echo` answers unary calls with what they sent.
"""

import asyncio
import json
import sys
from collections import deque
from collections.abc import AsyncIterator

import grpc
import uvloop

_AHEAD_MAX = 512
#: The identity serializer of bytes: makes no copy.
SAME = bytes
Context = grpc.aio.ServicerContext[bytes, bytes]


class Relay:
    """Streams by number, and jobs by number."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, deque[bytes]] = {}
        self._woken: dict[bytes, asyncio.Event] = {}
        self._room = asyncio.Event()
        self._jobs: deque[bytes] = deque()
        self._job_woken = asyncio.Event()
        self._answers: deque[bytes] = deque()
        self._answer_woken = asyncio.Event()

    async def source(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """Take tokens from the source; wait while a client is too far behind."""
        async for token in requests:
            stream = token[:2]
            queue = self._waiting.get(stream)
            if queue is None:
                continue
            queue.append(token)
            self._woken[stream].set()
            while len(queue) > _AHEAD_MAX:
                self._room.clear()
                await self._room.wait()
        return b""

    async def follow(self, request: bytes, context: Context) -> None:
        """Send one client its tokens, one a message."""
        queue = self._waiting[request] = deque()
        woken = self._woken[request] = asyncio.Event()
        while True:
            await woken.wait()
            woken.clear()
            while queue:
                await context.write(queue.popleft())
            self._room.set()

    async def jobs(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Serve a client's one stream: its jobs go down to the worker, the answers come back."""
        reader = asyncio.create_task(_collect(requests, self._jobs, self._job_woken))
        try:
            await _send(self._answers, self._answer_woken, context)
        finally:
            reader.cancel()

    async def work(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Serve a worker's one stream."""
        reader = asyncio.create_task(_collect(requests, self._answers, self._answer_woken))
        try:
            await _send(self._jobs, self._job_woken, context)
        finally:
            reader.cancel()


async def _collect(
    requests: AsyncIterator[bytes], queue: deque[bytes], woken: asyncio.Event
) -> None:
    async for request in requests:
        queue.append(request)
        woken.set()


async def _send(queue: deque[bytes], woken: asyncio.Event, context: Context) -> None:
    while True:
        await woken.wait()
        woken.clear()
        while queue:
            await context.write(queue.popleft())


async def _echo(request: bytes, _context: Context) -> bytes:
    return request


async def serve() -> None:
    """Serve relay and echo on a free port until killed."""
    relay = Relay()
    server = grpc.aio.server()
    server.add_registered_method_handlers(  # type: ignore[attr-defined]  # missing in the stubs
        "bare.Relay",
        {
            "Source": grpc.stream_unary_rpc_method_handler(relay.source),
            "Follow": grpc.unary_stream_rpc_method_handler(relay.follow),
            "Jobs": grpc.stream_stream_rpc_method_handler(relay.jobs),
            "Work": grpc.stream_stream_rpc_method_handler(relay.work),
            "Echo": grpc.unary_unary_rpc_method_handler(_echo),
        },
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(json.dumps({"address": f"127.0.0.1:{port}"}), flush=True)
    await server.wait_for_termination()


async def source(address: str, streams: int) -> None:
    """Send tokens for each stream in turn, for ever."""
    tokens = [index.to_bytes(2, "big") + b" token" * 3 for index in range(streams)]
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_unary("/bare.Relay/Source", SAME, SAME)(None)
        print(json.dumps({"address": "source"}), flush=True)
        while True:
            for token in tokens:
                await call.write(token)


async def answer(address: str) -> None:
    """Answer each job with one token."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream("/bare.Relay/Work", SAME, SAME)(None)
        print(json.dumps({"address": "answer"}), flush=True)
        async for job in call:
            await call.write(job)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["relay"]:
            uvloop.run(serve())
        case ["source", at, count]:
            uvloop.run(source(at, int(count)))
        case ["answer", at]:
            uvloop.run(answer(at))
        case _:
            sys.exit(
                "usage: python -m benchmarks.bare_relay relay | source ADDRESS N | answer ADDRESS"
            )
