"""An OpenAI-compatible server that answers what a test says: the faults that a real server shows only by accident."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

MODELS = b'{"data": [{"id": "small", "max_model_len": 1024}]}'


def event(text: str, **fields: object) -> bytes:
    """Return one piece of a streamed completion."""
    choice = {"index": 0, "text": text, "finish_reason": None} | fields
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


DONE = b"data: [DONE]\n\n"


class ScriptedUpstream:
    """Serves one scripted answer to every completion; remembers what was asked."""

    def __init__(
        self, *, status: int = 200, body: Sequence[bytes] = (), hangs: bool = False
    ) -> None:
        """Answer completions with this status and these pieces; then end, or hang until the client leaves."""
        self.status = status
        self.body = body
        self.hangs = hangs
        self.models_status = 200
        self.asked: list[dict[str, object]] = []
        self.keys: list[str] = []
        self.left = asyncio.Event()
        self.url = ""

    async def serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close the connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        lower = {name.lower(): value for name, value in fields.items()}
        content = await reader.readexactly(int(lower.get("content-length", "0")))
        self.keys.append(lower.get("authorization", ""))
        if head.startswith("GET"):
            writer.write(_head(self.models_status) + MODELS)
        else:
            self.asked.append(json.loads(content))
            writer.write(_head(self.status))
            for piece in self.body:
                writer.write(piece)
            await writer.drain()
            if self.hangs:
                await reader.read()  # returns when the client has closed
                self.left.set()
        writer.close()


@asynccontextmanager
async def serving_upstream(upstream: ScriptedUpstream) -> AsyncIterator[ScriptedUpstream]:
    """Serve on a free loopback port; `upstream.url` names it."""
    server = await asyncio.start_server(upstream.serve_one, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    upstream.url = f"http://127.0.0.1:{port}/v1"
    try:
        yield upstream
    finally:
        server.close()
        await server.wait_closed()


def _head(status: int) -> bytes:
    return f"HTTP/1.1 {status} Scripted\r\nConnection: close\r\n\r\n".encode()
