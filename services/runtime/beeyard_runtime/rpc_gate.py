"""The way of one call through the guard: who is it, may it, whose things may it see; and what the audit trail is told.

A method of a guard that is open has no gate at all, unless it is audited.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from typing import Final, cast

import grpc
from google.protobuf.message import Message

from beeyard_runtime.rpc_errors import RpcRefusal
from beeyard_runtime.security.audit import Entry
from beeyard_runtime.security.authorization import METHODS, Row
from beeyard_runtime.security.callers import Caller, admitted
from beeyard_runtime.security.dialing import AUTHORIZATION, token_in
from beeyard_runtime.security.guard import Guard, Shown

Context = grpc.aio.ServicerContext[object, object]
Answer = Callable[[object, Context], Awaitable[object]]
Decode = Callable[[bytes], object]

_TOLD_MAX: Final = 256
_PEER_URI: Final = "peer_uri"


class Gate:
    """Of one method."""

    def __init__(self, guard: Guard, name: str, row: Row | None, *, is_stream: bool) -> None:
        self._guard = guard
        self._name = name
        self._row = row
        self._is_stream = is_stream

    async def __call__(
        self, raw: object, context: Context, decode: Decode | None, answer: Answer
    ) -> object:
        """Let a call through to `answer`, or raise."""
        shown = shown_in(context)
        caller = self._guard.know(self._row, shown)
        request: object = None
        try:
            admission = self._guard.authorize(self._row, caller)
            with ExitStack() as stack:
                stack.enter_context(admitted(admission))
                if self._is_stream:
                    stack.enter_context(self._guard.holding(caller))
                request = decode(cast("bytes", raw)) if decode else raw
                self._guard.bind(self._row, admission, request)
                answered = await answer(request, context)
        except asyncio.CancelledError:
            # It may have happened all the same.
            if self._is_audited:
                self._guard.audit.note_now(self._entry(caller, shown, request, "CANCELLED"))
            raise
        except Exception as fault:
            await self._note(caller, shown, request, _result_of(fault))
            raise
        await self._note(caller, shown, request, "OK")
        return answered

    @property
    def _is_audited(self) -> bool:
        return self._row is not None and self._row.audited is not None

    async def _note(self, caller: Caller, shown: Shown, request: object, result: str) -> None:
        if self._is_audited:
            await self._guard.audit.note(self._entry(caller, shown, request, result))

    def _entry(self, caller: Caller, shown: Shown, request: object, result: str) -> Entry:
        fields = (self._row.audited if self._row else None) or ()
        what = {name: _told(request, name) for name in fields if _is_set(request, name)}
        return Entry(action=self._name, caller=caller, peer=shown.peer, what=what, result=result)


def gate_of(name: str, guard: Guard | None, *, is_stream: bool) -> Gate | None:
    """Return the gate of a method, `package.Service/Method`; None: everybody goes through."""
    row = METHODS.get(name)
    if guard is None or not (guard.is_closed or (row is not None and row.audited is not None)):
        return None
    return Gate(guard, name, row, is_stream=is_stream)


def shown_in(context: Context) -> Shown:
    """Return what the caller of a method shows."""
    token = ""
    metadata = cast("Iterable[tuple[str, str | bytes]]", context.invocation_metadata() or ())
    for key, value in metadata:
        if key == AUTHORIZATION and isinstance(value, str):
            token = token_in(value)
    uris = cast("dict[str, Iterable[bytes]]", context.auth_context()).get(_PEER_URI, ())
    peer = str(context.peer())
    return Shown(token, tuple(uri.decode("ascii", "replace") for uri in uris), _host_of(peer))


def _host_of(peer: str) -> str:
    """Return the address in `ipv4:127.0.0.1:50` or `ipv6:[::1]:50`, quoted as gRPC may have it."""
    return peer.replace("%5B", "[").replace("%5D", "]").rpartition(":")[0]


def _is_set(request: object, name: str) -> bool:
    if not isinstance(request, Message) or name not in request.DESCRIPTOR.fields_by_name:
        return False
    if request.DESCRIPTOR.fields_by_name[name].has_presence:
        return request.HasField(name)
    return bool(getattr(request, name))


def _told(request: object, name: str) -> str | int | bool:
    value = getattr(request, name)
    return value if isinstance(value, bool | int) else str(value)[:_TOLD_MAX]


def _result_of(fault: Exception) -> str:
    if isinstance(fault, RpcRefusal):
        return fault.refused.reason.value
    return "INTERNAL"
