"""Who may use a route, by the table of rights; and the caller's token on its way to the queen, which decides again.

The gateway knows roles, the queen besides whose jobs are whose. What the gateway reads for everybody at once, the live
view, it reads with a token of its own; a request that shows none never borrows that.
"""

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from beeyard_core import limits
from beeyard_runtime.rpc_errors import RpcRefusal
from beeyard_runtime.security.authorization import ROUTES
from beeyard_runtime.security.callers import admitted
from beeyard_runtime.security.dialing import AUTHORIZATION, TokenSource, token_in
from beeyard_runtime.security.guard import Guard, Shown
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from beeyard_gateway.exchange import Exchange
from beeyard_gateway.faults import Fault, of_refused

#: What a browser offers besides the token, and gets back: it cannot set headers of a WebSocket.
SUBPROTOCOL: Final = "beeyard"
_OFFERED_TOKEN: Final = "bearer."  # noqa: S105  what a token begins with there
_PLAIN: Final = re.compile(r"[\x21-\x7e]+")
_shown_token: ContextVar[str | None] = ContextVar("shown_token", default=None)


def passed_on(own: TokenSource | None) -> TokenSource:
    """Return what goes with calls to the queen: within a request what it showed, elsewhere the gateway's own token."""

    def token() -> str:
        shown = _shown_token.get()
        if shown is not None:
            return shown
        return own() if own is not None else ""

    return token


@contextmanager
def showing(token: str) -> Iterator[None]:
    """Let this token go with calls to the queen within the block; empty: none, not even the gateway's own."""
    passing = _shown_token.set(token)
    try:
        yield
    finally:
        _shown_token.reset(passing)


class Entrance:
    """The way in of one gateway."""

    def __init__(self, guard: Guard) -> None:
        """Let in whom the guard lets in."""
        self._guard = guard

    async def enter(
        self, exchange: Exchange, route: str, answer: Callable[[], Awaitable[None]]
    ) -> None:
        """Answer a request if its caller may use the route.

        Raises:
            Fault: UNAUTHENTICATED, PERMISSION_DENIED or QUOTA_EXCEEDED.
        """
        token = _plain(token_in(exchange.header(AUTHORIZATION.encode())))
        await self._run(route, Shown(token, peer=_host_of(exchange.scope.get("client"))), answer)

    async def enter_socket(
        self, socket: WebSocket, route: str, show: Callable[[WebSocket], Awaitable[None]]
    ) -> None:
        """Hold a WebSocket if its caller may.

        Raises:
            Fault: As above.
        """
        token = _plain(token_in(socket.headers.get(AUTHORIZATION, ""))) or _offered_in(socket)
        shown = Shown(token, peer=_host_of(socket.scope.get("client")))
        await self._run(route, shown, lambda: show(socket))

    async def _run(self, route: str, shown: Shown, answer: Callable[[], Awaitable[None]]) -> None:
        with showing(shown.token):
            try:
                if not self._guard.is_closed:
                    await answer()
                    return
                row = ROUTES.get(route)
                caller = self._guard.know(row, shown)
                admission = self._guard.authorize(row, caller)
                with admitted(admission), self._guard.holding(caller):
                    await answer()
            except RpcRefusal as refusal:
                raise _fault_of(refusal) from None


def _fault_of(refusal: RpcRefusal) -> Fault:
    return of_refused(refusal.refused)


def _plain(token: str) -> str:
    """Return a token that can travel in metadata; empty for what can be none."""
    return token if _PLAIN.fullmatch(token) and len(token) <= limits.TOKEN_BYTES_MAX else ""


def _offered_in(connection: HTTPConnection) -> str:
    offered = connection.headers.get("sec-websocket-protocol", "").split(",")
    tokens = [one.strip() for one in offered if one.strip().startswith(_OFFERED_TOKEN)]
    return _plain(tokens[0].removeprefix(_OFFERED_TOKEN)) if len(tokens) == 1 else ""


def _host_of(client: tuple[str, int] | None) -> str:
    return client[0] if client else ""
