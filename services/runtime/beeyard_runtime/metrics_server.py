"""The port on which Prometheus reads a process's figures, over HTTP, or HTTPS where the process has a certificate.

Served on threads of its own, so that a scrape neither waits for what the process does nor holds it up for long. For the
same reason it has a guard apart from the process's, which one scrape after the other asks.
"""

import socket
import ssl
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from beeyard_core import link_limits
from beeyard_core.refusal import Refusal
from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from beeyard_runtime.listening import allowed_address, bind_socket
from beeyard_runtime.rpc_errors import RpcRefusal
from beeyard_runtime.security.authorization import FIGURES
from beeyard_runtime.security.dialing import token_in
from beeyard_runtime.security.guard import Shown
from beeyard_runtime.security.protection import Protection, unprotected

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

#: How often the serving thread looks whether it is to end.
_POLL_S: Final = 0.1
_URIS: Final = "beeyard.certificate_uris"
_STATUSES: Final = {
    Refusal.UNAUTHENTICATED: "401 Unauthorized",
    Refusal.PERMISSION_DENIED: "403 Forbidden",
    Refusal.QUOTA_EXCEEDED: "429 Too Many Requests",
}


class _Quiet(WSGIRequestHandler):
    """Writes no line for each scrape, and tells whose certificate was shown."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        del format, args

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environ()
        if isinstance(self.connection, ssl.SSLSocket):
            names: Any = (self.connection.getpeercert() or {}).get("subjectAltName", ())
            environ[_URIS] = tuple(value for kind, value in names if kind == "URI")
        return environ


class _Server(ThreadingWSGIServer):
    """A thread for each connection, of which there are a few at once; handshakes happen there, too."""

    tls: ssl.SSLContext | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._room = threading.BoundedSemaphore(link_limits.METRICS_SCRAPES_MAX)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._room.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(link_limits.METRICS_SCRAPE_MS / 1_000)
        if self.tls is None:
            super().finish_request(request, client_address)
            return
        with self.tls.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of those who hang up, are late, or speak something else; a scraper tells of it itself."""


class _ServerV6(_Server):
    """The same on an address of the sixth version."""

    address_family = socket.AF_INET6


class MetricsServer:
    """`/metrics` of one process."""

    def __init__(
        self, registry: CollectorRegistry, listen: str, protection: Protection | None = None
    ) -> None:
        """Serve from `start` on.

        Args:
            registry: Of the figures.
            listen: HOST:PORT; port 0 takes a free one, and an empty text means not at all.
            protection: Of the process; None: what suits a machine of one's own.
        """
        self._registry = registry
        self._listen = listen
        self._protection = protection or unprotected()
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
            ListenFailed: The address is taken, malformed, or not loopback and not protected.
        """
        if not self._listen:
            return
        protection = self._protection
        host, port = allowed_address(self._listen, is_protected=protection.is_complete)
        bind_socket(host, port, self._listen).close()
        kind = _ServerV6 if ":" in host else _Server
        app = _guarded(make_wsgi_app(self._registry), protection)
        server = self._server = make_server(host, port, app, kind, _Quiet)
        server.tls = protection.tls.server_context()
        self._thread = threading.Thread(
            target=server.serve_forever, args=(_POLL_S,), name="metrics", daemon=True
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


def _guarded(app: "WSGIApplication", protection: Protection) -> "WSGIApplication":
    """Let those read the figures who may, by the table of rights."""
    guard, one_at_a_time = protection.guard.apart(), threading.Lock()

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        token = token_in(str(environ.get("HTTP_AUTHORIZATION", "")))
        shown = Shown(token, environ.get(_URIS, ()), str(environ.get("REMOTE_ADDR", "")))
        try:
            with one_at_a_time:
                guard.authorize(FIGURES, guard.know(FIGURES, shown))
        except RpcRefusal as refusal:
            refused = refusal.refused
            start_response(_STATUSES[refused.reason], [("Content-Type", "text/plain")])
            return [f"{refused.reason.value}: {refused.message}\n".encode()]
        return app(environ, start_response)

    return answer
