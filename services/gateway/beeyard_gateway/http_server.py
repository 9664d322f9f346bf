"""The HTTP server: uvicorn with httptools, within the limits, started and ended by us and not by signals of its own.

httptools takes headers of any number and size, and waits for them for ever; `BoundedHttp` counts and times them.
"""

import asyncio
import functools
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

import uvicorn
from beeyard_core import limits
from beeyard_runtime.listening import allowed_address, bind_socket
from beeyard_runtime.security.protection import Protection, unprotected
from beeyard_runtime.security.tls import TlsSource
from starlette.types import ASGIApp
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedHttp(HttpToolsProtocol):
    """One connection whose requests have headers of bounded size, which come in bounded time."""

    _header_bytes = 0
    _awaited_bytes = 0
    _headers_due: asyncio.TimerHandle | None = None

    def __init__(
        self, *args: Any, connections_max: int, overloaded: ASGIApp, **kwargs: Any
    ) -> None:
        """Serve; while there are more connections than `connections_max`, `overloaded` answers for the application."""
        super().__init__(*args, **kwargs)
        self._connections_max = connections_max
        self._usual = self.app
        self._overloaded = cast("ASGI3Application", overloaded)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        # What a client does not take waits in the queen, once for everybody, and not here.
        transport.set_write_buffer_limits(high=limits.HTTP_WRITE_BYTES_MAX)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._stop_awaiting()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Begin to count."""
        self._header_bytes = 0
        self._await_headers()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Take a part of the path."""
        if self._fits(len(url)):
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        if self._fits(len(name) + len(value)):
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request to the application, unless it was refused."""
        self._stop_awaiting()
        if self._header_bytes <= limits.HTTP_HEADER_BYTES_MAX:
            is_crowded = len(self.connections) > self._connections_max
            self.app = self._overloaded if is_crowded else self._usual
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, unless the request was refused."""
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Take the end of the request, unless it was refused."""
        if not self.transport.is_closing():
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Take bytes, unless the connection was ended already."""
        if self.transport.is_closing():
            return
        if self._headers_due is not None:
            # The parser tells a header only when it is complete, so what it gathers is counted here. The last read
            # may bring a part of the body with it.
            self._awaited_bytes += len(data)
            if self._awaited_bytes > limits.HTTP_HEADER_BYTES_MAX + limits.HTTP_READ_BYTES_MAX:
                self._refuse()
                return
        super().data_received(data)

    def _fits(self, count: int) -> bool:
        self._header_bytes += count
        if self._header_bytes > limits.HTTP_HEADER_BYTES_MAX:
            self._refuse()
            return False
        return True

    def _refuse(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def _await_headers(self) -> None:
        self._stop_awaiting()
        seconds = limits.HTTP_HEADERS_TIMEOUT_MS / 1_000
        self._headers_due = self.loop.call_later(seconds, self._give_up)

    def _stop_awaiting(self) -> None:
        self._awaited_bytes = 0
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _give_up(self) -> None:
        self._headers_due = None
        self.transport.close()


class HttpServer:
    """One server on one address: started, drained, stopped.

    Attributes:
        address: Where it listens, `host:port`; empty before `start`.
    """

    def __init__(
        self,
        app: ASGIApp,
        overloaded: ASGIApp,
        *,
        listen: str,
        connections_max: int,
        grace_ms: int,
        protection: Protection | None = None,
    ) -> None:
        """Prepare to serve `app`; nothing is bound yet.

        Args:
            app: The application.
            overloaded: Answers instead while there are too many connections.
            listen: `host:port`; port 0 takes a free one.
            connections_max: Connections at once.
            grace_ms: How long running requests may go on after `stop`, milliseconds.
            protection: With TLS it speaks HTTPS; None: what suits a machine of one's own.
        """
        # What uvicorn has to tell at this level is that it works; its faults are warnings and errors.
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        self._listen = listen
        self._protection = protection = protection or unprotected()
        http = functools.partial(
            BoundedHttp, connections_max=connections_max, overloaded=overloaded
        )
        self._server = _Server(_config(app, http, grace_ms, protection.tls))
        self._running: asyncio.Task[None] | None = None
        self.address = ""

    @property
    def is_ready(self) -> bool:
        """Whether it serves."""
        return self._server.started

    @property
    def connections_count(self) -> int:
        """How many connections are open."""
        return len(self._server.server_state.connections)

    async def start(self) -> None:
        """Bind and serve.

        Raises:
            ListenFailed: The address is taken, malformed, or not loopback and not protected.
        """
        host, port = allowed_address(self._listen, is_protected=self._protection.is_complete)
        bound = bind_socket(host, port, self._listen)
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{bound.getsockname()[1]}"
        self._running = asyncio.create_task(self._server.serve(sockets=[bound]))
        ready = asyncio.create_task(self._server.ready.wait())
        await asyncio.wait({self._running, ready}, return_when=asyncio.FIRST_COMPLETED)
        if self._running.done():
            ready.cancel()
            await self._running

    async def stop(self) -> None:
        """Take no new connections, let running requests end within the grace, then cancel them. Idempotent."""
        self._server.should_exit = True
        if self._running is not None:
            await self._running


class _Server(uvicorn.Server):
    """uvicorn without its signals, which are the process' own, and with word of when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(
    app: ASGIApp, http: Callable[..., BoundedHttp], grace_ms: int, tls: TlsSource
) -> uvicorn.Config:
    settings: dict[str, Any] = {
        "http": http,
        "ws": "websockets-sansio",
        "ws_max_size": limits.LIVE_MESSAGE_BYTES_MAX,
        # Compressing each message for each view would cost more than loopback does.
        "ws_per_message_deflate": False,
        "lifespan": "off",
        "log_config": None,
        "access_log": False,
        # Nobody in front of us is believed.
        "proxy_headers": False,
        "server_header": False,
        "timeout_keep_alive": limits.HTTP_KEEP_ALIVE_MS // 1_000,
        "timeout_graceful_shutdown": max(1, -(-grace_ms // 1_000)),
    }
    context = tls.server_context()
    if context is not None:
        settings["ssl_context_factory"] = lambda _config, _default: context
    return uvicorn.Config(app, **settings)
