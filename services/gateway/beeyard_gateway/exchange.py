"""One HTTP request and its answer, over plain ASGI: what an endpoint may ask and say, within the limits.

There is no request object of a framework on the way of a token: a write goes from the endpoint to the server's socket
through one function call of ours.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl

from beeyard_core import limits
from pydantic_core import from_json
from starlette.types import Message, Receive, Scope, Send

from beeyard_gateway.faults import Fault, Headers, HttpReason, invalid

JSON: Final = b"application/json"
PROBLEM: Final = b"application/problem+json"
EVENT_STREAM: Final = b"text/event-stream; charset=utf-8"
#: An empty type is taken for JSON; a form is not: a page of another site could send one without asking (CSRF).
_JSON_TYPES: Final = frozenset({"", "application/json"})
_QUERY_FIELDS_MAX: Final = 64


class Exchange:
    """One request and its answer.

    Attributes:
        correlation_id: The client's own name for the request, or one that was made; echoed in the answer.
        route: The template of the path, such as `/v2/jobs/{job_id}`; empty before it is known.
        status: What was answered; 0 before.
        is_gone: Whether the client hung up.
    """

    __slots__ = (
        "_headers",
        "_query",
        "_receive",
        "_send",
        "correlation_id",
        "is_gone",
        "route",
        "scope",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, correlation_id: str) -> None:
        """Begin with nothing read and nothing answered."""
        self.scope = scope
        self.correlation_id = correlation_id
        self.route = ""
        self.status = 0
        self.is_gone = False
        self._receive = receive
        self._send = send
        self._headers: dict[bytes, bytes] | None = None
        self._query: dict[str, str] | None = None

    # --- What was asked ---
    @property
    def method(self) -> str:
        """The method, in capitals."""
        return str(self.scope["method"])

    @property
    def is_openai(self) -> bool:
        """Whether errors have OpenAI's shape here."""
        path = str(self.scope["path"])
        return path == "/v1" or path.startswith("/v1/")

    def header(self, name: bytes) -> str:
        """Return a header by its name in small letters; empty if there is none. Of several, the last."""
        if self._headers is None:
            self._headers = dict(self.scope["headers"])
        return self._headers.get(name, b"").decode("latin-1")

    def in_path(self, name: str) -> str:
        """Return a part of the path that the route names."""
        return str(self.scope["path_params"][name])

    def in_query(self, name: str) -> str:
        """Return a value of the query; empty if there is none."""
        return self.query().get(name, "")

    def query(self) -> Mapping[str, str]:
        """Return the query; of several values of one name the last."""
        if self._query is None:
            raw = self.scope.get("query_string", b"").decode("latin-1")
            try:
                pairs = parse_qsl(raw, keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX)
            except ValueError:
                raise invalid(f"the query has more than {_QUERY_FIELDS_MAX} fields") from None
            self._query = dict(pairs)
        return self._query

    async def body(self) -> bytes:
        """Return the whole body.

        Raises:
            Fault: It is not declared as JSON, too large, or too slow.
        """
        kind = self.header(b"content-type").partition(";")[0].strip().lower()
        if kind not in _JSON_TYPES:
            raise Fault(
                HttpReason.UNSUPPORTED_MEDIA_TYPE, "send JSON, with Content-Type: application/json"
            )
        declared = self.header(b"content-length")
        if declared.isdecimal() and int(declared) > limits.HTTP_BODY_BYTES_MAX:
            raise _too_large()
        first = await self._receive_within(limits.HTTP_BODY_TIMEOUT_MS)
        if not first.get("more_body", False):
            whole: bytes = first.get("body", b"")
            if len(whole) > limits.HTTP_BODY_BYTES_MAX:
                raise _too_large()
            return whole
        return await self._rest_of(first)

    async def _rest_of(self, message: Message) -> bytes:
        whole = bytearray(message.get("body", b""))
        try:
            async with asyncio.timeout(limits.HTTP_BODY_TIMEOUT_MS / 1_000):
                while message.get("more_body", False):
                    message = await self._receive()
                    self._note(message)
                    whole += message.get("body", b"")
                    if len(whole) > limits.HTTP_BODY_BYTES_MAX:
                        raise _too_large()
        except TimeoutError:
            raise _too_slow() from None
        return bytes(whole)

    async def _receive_within(self, timeout_ms: int) -> Message:
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                message = await self._receive()
        except TimeoutError:
            raise _too_slow() from None
        self._note(message)
        return message

    def _note(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            self.is_gone = True
            raise HungUp

    async def json(self) -> object:
        """Return the body as JSON.

        Raises:
            Fault: It is not JSON.
        """
        raw = await self.body()
        try:
            return from_json(raw, allow_inf_nan=False)
        except ValueError:
            # The parser's own words quote what came.
            raise invalid("the body is not valid JSON") from None

    async def hung_up(self) -> None:
        """Return once the client is gone. Only after the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True

    # --- What is answered ---
    async def begin(
        self, status: int, content_type: bytes, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        """Send status and headers."""
        self.status = status
        every: Headers = [
            (b"content-type", content_type),
            (b"x-correlation-id", self.correlation_id.encode("latin-1")),
            (b"x-content-type-options", b"nosniff"),
            *headers,
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": every})

    async def write(self, part: bytes) -> None:
        """Send a part of the body; returns when the client takes more. Does nothing once it is gone."""
        await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def end(self, part: bytes = b"") -> None:
        """Send the last part of the body."""
        await self._send({"type": "http.response.body", "body": part, "more_body": False})

    async def reply(
        self,
        body: bytes,
        *,
        content_type: bytes = JSON,
        status: int = HTTPStatus.OK,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """Answer at once with the whole body."""
        length = (b"content-length", str(len(body)).encode())
        await self.begin(status, content_type, (length, *headers))
        await self.end(body)

    async def reply_json(
        self,
        value: object,
        *,
        status: int = HTTPStatus.OK,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        """Answer with JSON."""
        await self.reply(dump(value), status=status, headers=headers)

    async def refuse(self, fault: Fault) -> None:
        """Answer with an error, in the shape that belongs to the path."""
        body: dict[str, Any] = (
            fault.openai() if self.is_openai else fault.problem(self.correlation_id)
        )
        await self.reply(
            dump(body),
            content_type=JSON if self.is_openai else PROBLEM,
            status=fault.status,
            headers=fault.headers(),
        )


class HungUp(Exception):
    """The client is gone, so there is nobody to answer."""


def dump(value: object) -> bytes:
    """Return a value as JSON, as short as it gets."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _too_large() -> Fault:
    return Fault(
        HttpReason.REQUEST_TOO_LARGE,
        f"the body is larger than {limits.HTTP_BODY_BYTES_MAX} bytes",
    )


def _too_slow() -> Fault:
    return Fault(HttpReason.REQUEST_TIMEOUT, "the body did not come in time")
