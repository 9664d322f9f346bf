"""The port on which Prometheus reads a process's figures, over HTTP.

Served on threads of its own, so that a scrape neither waits for what the process does nor holds it up for long.
"""

import socket
import threading
from typing import Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from beeyard_runtime.listening import bind_socket, loopback_address

#: How often the serving thread looks whether it is to end.
_POLL_S: Final = 0.1


class _Quiet(WSGIRequestHandler):
    """Writes no line for each scrape."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        del format, args


class _ServerV6(ThreadingWSGIServer):
    """The same on an address of the sixth version."""

    address_family = socket.AF_INET6


class MetricsServer:
    """`/metrics` of one process."""

    def __init__(self, registry: CollectorRegistry, listen: str) -> None:
        """Serve from `start` on; `listen` is HOST:PORT, port 0 takes a free one, and an empty text means not at all."""
        self._registry = registry
        self._listen = listen
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str | None:
        """Where it listens; None: it does not."""
        if self._server is None:
            return None
        host = str(self._server.server_address[0])
        shown = f"[{host}]" if ":" in host else host
        return f"{shown}:{self._server.server_port}"

    def start(self) -> None:
        """Begin to listen.

        Raises:
            ListenFailed: The address is taken, malformed, or not loopback.
        """
        if not self._listen:
            return
        host, port = loopback_address(self._listen)
        bind_socket(host, port, self._listen).close()
        kind = _ServerV6 if ":" in host else ThreadingWSGIServer
        self._server = make_server(host, port, make_wsgi_app(self._registry), kind, _Quiet)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="metrics", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Close the port. Blocks for a moment, so not on an event loop. Idempotent."""
        if self._server is None or self._thread is None:
            return
        server, self._server = self._server, None
        server.shutdown()
        server.server_close()
        self._thread.join()
