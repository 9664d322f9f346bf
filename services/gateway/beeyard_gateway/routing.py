"""One row for each route: where it is, who answers, and what `/openapi.json` says of it."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from google.protobuf.message import Message
from pydantic import BaseModel
from starlette.routing import Route, Router, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from beeyard_gateway.entrance import Entrance
from beeyard_gateway.exchange import Exchange

LIVE: Final = "/v2/live"
Answer = Callable[[Exchange], Awaitable[None]]
Shape = type[BaseModel] | type[Message]
Method = Literal["GET", "POST"]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A value in the query or in a header."""

    name: str
    text: str
    place: Literal["query", "header"] = "query"
    kind: Literal["string", "integer", "number"] = "string"


#: The headers of every route that starts or follows a job.
JOB_HEADERS: Final = tuple(
    Parameter(name, text, "header")
    for name, text in (
        ("Idempotency-Key", "The same key with the same request is the same job."),
        ("X-Beeyard-Priority", "interactive (high), normal, batch (low) or background."),
        ("X-Beeyard-Tenant", "Whose job it is."),
        ("X-Beeyard-Session", "The conversation that it belongs to."),
        ("X-Deadline", "Milliseconds from now, or a moment (RFC 3339)."),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRow:
    """One route.

    Attributes:
        method: GET or POST; GET answers HEAD too.
        path: The template, such as `/v2/jobs/{job_id}`.
        answer: The endpoint.
        summary: One sentence for a person.
        body: What is sent; None: nothing.
        reply: What comes back; None: not described.
        status: Of success.
        content_type: Of success.
        streams: Whether server-sent events may come instead.
        parameters: Of query and headers.
    """

    method: Method
    path: str
    answer: Answer
    summary: str
    body: Shape | None = None
    reply: Shape | None = None
    status: int = 200
    content_type: str = "application/json"
    streams: bool = False
    parameters: tuple[Parameter, ...] = ()


def router_of(
    rows: Iterable[RouteRow], live: Callable[[WebSocket], Awaitable[None]], entrance: Entrance
) -> Router:
    """Return the router over all rows, and the live view's WebSocket, each behind the entrance."""

    async def live_within(socket: WebSocket) -> None:
        await entrance.enter_socket(socket, f"GET {LIVE}", live)

    routes: list[Route | WebSocketRoute] = [WebSocketRoute(LIVE, live_within)]
    by_path: dict[str, dict[str, Answer]] = {}
    for row in rows:
        by_path.setdefault(row.path, {})[row.method] = row.answer
    routes += [
        Route(path, _Endpoint(path, answers, entrance), methods=list(answers))
        for path, answers in by_path.items()
    ]
    return Router(routes, redirect_slashes=False)


class _Endpoint:
    """A route's end as plain ASGI: nothing of the framework between it and the socket."""

    def __init__(self, path: str, answers: dict[str, Answer], entrance: Entrance) -> None:
        self._path = path
        self._entrance = entrance
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["exchange"]
        exchange.route = self._path
        method = "GET" if exchange.method == "HEAD" else exchange.method
        answer = self._answers[method]
        await self._entrance.enter(exchange, f"{method} {self._path}", lambda: answer(exchange))
