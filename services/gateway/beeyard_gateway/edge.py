"""What happens round every request: whose it is, its trace, what went wrong with it, one access line.

The gateway listens on loopback, where every browser of the machine can reach it, and with it any page that one shows.
So a request must name a host that is this gateway's (a page that rebinds its own name cannot), and one with an `Origin`
must come from the same host. Where callers show tokens, which no browser adds by itself, any host name will do.
"""

import ipaddress
import re
import time
import uuid
from contextvars import Token
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from beeyard_runtime import semconv
from beeyard_runtime.log import get_log
from beeyard_runtime.telemetry import Telemetry
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from beeyard_gateway.exchange import Exchange, HungUp
from beeyard_gateway.faults import Fault, HttpReason, internal

_CORRELATION_ID: Final = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
_REFUSED_SOCKET: Final = 1008
#: nginx's word for a client that closed the connection before it was answered; only told to traces and logs.
_CLIENT_CLOSED: Final = 499
_log = get_log("http")


class Edge:
    """The application that the HTTP server runs."""

    def __init__(
        self,
        router: ASGIApp,
        *,
        telemetry: Telemetry,
        public_hosts: frozenset[str] = frozenset(),
        is_closed: bool = False,
    ) -> None:
        """Guard `router`.

        Args:
            router: The routes.
            telemetry: Where the spans go.
            public_hosts: Names under which a proxy of this machine serves it.
            is_closed: Callers show tokens.
        """
        self._is_closed = is_closed
        self._router = router
        self._telemetry = telemetry
        self._public_hosts = public_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hold one WebSocket."""
        exchange = Exchange(scope, receive, send, "")
        exchange.correlation_id = _correlation_id(exchange)
        if scope["type"] == "http":
            await self._answer(exchange, scope, receive, send)
        else:
            await self._hold(exchange, scope, receive, send)

    async def overloaded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request on a connection too many."""
        exchange = Exchange(scope, receive, send, "")
        exchange.correlation_id = _correlation_id(exchange)
        message = "too many connections are open; send the request again in a moment"
        await exchange.refuse(Fault(HttpReason.TOO_MANY_CONNECTIONS, message))

    async def _answer(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        request = _Request(exchange, self._telemetry)
        try:
            self._check(exchange)
            scope["exchange"] = exchange
            # Tells the router to raise what it cannot route, instead of answering it itself.
            scope["app"] = self
            await self._router(scope, receive, send)
        except HungUp:
            exchange.status = exchange.status or _CLIENT_CLOSED
        except Fault as fault:
            await self._refuse(exchange, fault)
        except HTTPException as fault:
            await self._refuse(exchange, _unrouted(fault))
        except Exception as fault:  # noqa: BLE001  # a bug: told to us by the log, to the client by a status
            _log.error("request_failed", route=exchange.route, exc_info=fault)
            await self._refuse(exchange, internal())
        finally:
            request.end()

    async def _refuse(self, exchange: Exchange, fault: Fault) -> None:
        trace.get_current_span().set_attribute(semconv.REFUSAL_REASON, fault.reason)
        if exchange.status:
            # Half of the answer is out already; the server closes the connection, which says so.
            _log.warning("answer_broken_off", route=exchange.route, reason=fault.reason)
            return
        await exchange.refuse(fault)

    async def _hold(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(exchange)
            scope["app"] = self
            await self._router(scope, receive, send)
        except (Fault, HTTPException):
            # Before it is accepted, closing a WebSocket answers it with 403.
            await send({"type": "websocket.close", "code": _REFUSED_SOCKET})
        except Exception as fault:  # noqa: BLE001  # as above
            _log.error("socket_failed", exc_info=fault)

    def _check(self, exchange: Exchange) -> None:
        """Refuse what a page of another site sent.

        Raises:
            Fault: FOREIGN_ORIGIN.
        """
        host = exchange.header(b"host")
        if not self._is_closed and not self._is_ours(host):
            raise Fault(
                HttpReason.FOREIGN_ORIGIN, "this host name is not served here", field="Host"
            )
        origin = exchange.header(b"origin")
        if origin and urlsplit(origin).netloc.lower() != host.lower():
            raise Fault(
                HttpReason.FOREIGN_ORIGIN,
                "requests from other origins are not taken",
                field="Origin",
            )

    def _is_ours(self, host: str) -> bool:
        # HTTP/1.0 has no Host, and no browser sends that.
        name = host.lower().rpartition(":")[0] if _has_port(host) else host.lower()
        name = name.removeprefix("[").removesuffix("]")
        if name in ("", "localhost") or name in self._public_hosts:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return False


def _has_port(host: str) -> bool:
    return host.rpartition(":")[2].isdecimal() and not host.endswith("]")


class _Request:
    """One request from its first byte to its last: its span and its access line."""

    __slots__ = ("_began", "_exchange", "_span", "_token")

    def __init__(self, exchange: Exchange, telemetry: Telemetry) -> None:
        self._exchange = exchange
        self._began = time.perf_counter()
        self._span: Span | None = None
        self._token = self._enter(telemetry)

    def _enter(self, telemetry: Telemetry) -> Token[otel_context.Context] | None:
        traceparent = self._exchange.header(semconv.TRACEPARENT.encode())
        if not telemetry.enabled:
            # Nothing of our own to tell, but a trace that passes through must come out at the other side.
            return otel_context.attach(telemetry.context_from(traceparent)) if traceparent else None
        parent = telemetry.context_from(traceparent)
        attributes = {
            semconv.HTTP_METHOD: self._exchange.method,
            semconv.CORRELATION_ID: self._exchange.correlation_id,
        }
        self._span = telemetry.tracer.start_span(
            self._exchange.method, context=parent, kind=SpanKind.SERVER, attributes=attributes
        )
        return otel_context.attach(trace.set_span_in_context(self._span, parent))

    def end(self) -> None:
        """Finish the span and write the access line."""
        exchange = self._exchange
        if self._span is not None:
            if exchange.route:
                self._span.update_name(f"{exchange.method} {exchange.route}")
                self._span.set_attribute(semconv.HTTP_ROUTE, exchange.route)
            self._span.set_attribute(semconv.HTTP_STATUS, exchange.status)
            if exchange.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                self._span.set_attribute(semconv.ERROR_TYPE, str(exchange.status))
                self._span.set_status(StatusCode.ERROR)
            self._span.end()
        if self._token is not None:
            otel_context.detach(self._token)
        _log.debug(
            "request_done",
            method=exchange.method,
            route=exchange.route,
            status=exchange.status,
            took_ms=round((time.perf_counter() - self._began) * 1_000, 3),
            correlation_id=exchange.correlation_id,
        )


def _correlation_id(exchange: Exchange) -> str:
    given = exchange.header(b"x-correlation-id")
    return given if _CORRELATION_ID.fullmatch(given) else uuid.uuid4().hex


def _unrouted(fault: HTTPException) -> Fault:
    if fault.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return _MethodNotAllowed((fault.headers or {}).get("Allow", ""))
    return Fault(HttpReason.ROUTE_NOT_FOUND, "there is no such route; /openapi.json lists all")


class _MethodNotAllowed(Fault):
    def __init__(self, allowed: str) -> None:
        self._allowed = ", ".join(sorted(allowed.split(", ")))
        super().__init__(HttpReason.METHOD_NOT_ALLOWED, f"only {self._allowed} here")

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [*super().headers(), (b"allow", self._allowed.encode())]
