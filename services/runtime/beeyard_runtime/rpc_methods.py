"""What happens round every method: decoding, the server span, errors turned into statuses, one access line.

A method is wrapped once, when its service is registered. The wrapper runs once a call; messages of a stream pass
through no Python of ours except where they are decoded.

Order: the span begins, the caller passes the guard, the request is decoded, the servicer runs, what it raised is turned
into a status. A unary
request is decoded here and not by grpc, whose answer to malformed bytes is UNKNOWN with the name of a Python class.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextvars import Token
from typing import Final, NamedTuple, NoReturn, TypeAlias, cast

import grpc
from beeyard_core import limits
from beeyard_core.refusal import Refusal, Refused
from google.protobuf.message import DecodeError
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from beeyard_runtime import semconv
from beeyard_runtime.call_meter import CallMeter
from beeyard_runtime.log import get_log
from beeyard_runtime.outlet import Outlet
from beeyard_runtime.rpc_errors import CODES, STATUS_DETAILS_KEY, RpcRefusal, refuse, to_status
from beeyard_runtime.rpc_gate import Gate, gate_of
from beeyard_runtime.security.guard import Guard
from beeyard_runtime.telemetry import Telemetry

Method: TypeAlias = "grpc.RpcMethodHandler[object, object]"
Context = grpc.aio.ServicerContext[object, object]
Behaviour = Callable[[object, Context], object]
Answer = Callable[[object, Context], Awaitable[object]]
Decode = Callable[[bytes], object]

_UNIMPLEMENTED: Final = grpc.StatusCode.UNIMPLEMENTED
_INTERNAL: Final = Refused(reason=Refusal.INTERNAL, message="internal error")
# Codes that are the server's fault; only these mark a server span as failed.
_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
_log = get_log("rpc")


def wrap_method(
    path: str,
    method: Method,
    telemetry: Telemetry,
    meter: CallMeter | None = None,
    guard: Guard | None = None,
    stall_ms: int = limits.STREAM_STALL_MS,
) -> Method:
    """Return `method` with everything round it that every method has.

    Args:
        path: `/package.Service/Method`.
        method: As generated code made it.
        telemetry: Where its spans go.
        meter: Counts its calls; None: nobody does.
        guard: Who lets them in; None: everybody is let in.
        stall_ms: After so many milliseconds a peer is cut that reads nothing of a stream.
    """
    name = path.lstrip("/")
    decode = cast("Decode", method.request_deserializer)
    behaviour = cast(
        "Behaviour",
        method.unary_unary or method.unary_stream or method.stream_unary or method.stream_stream,
    )
    if method.request_streaming:
        decode_each, decode_once = _refusing(decode), None
    else:
        decode_each, decode_once = None, _refusing(decode)
    answer = _answer_one(behaviour)
    if method.response_streaming:
        answer = _answer_stream(behaviour, stall_ms)
    make = _MAKERS[method.request_streaming, method.response_streaming]
    is_stream = bool(method.request_streaming or method.response_streaming)
    tally = _Tally(meter or CallMeter(), is_stream=is_stream)
    gate = gate_of(name, guard, is_stream=is_stream)
    if gate is not None:
        # The gate decodes what comes whole, after it has let its caller in.
        answer, decode_once = _through(gate, answer, decode_once), None
    return make(
        _guarded(name, answer, decode_once, telemetry, tally),
        request_deserializer=decode_each,
        response_serializer=method.response_serializer,
    )


_MAKERS: dict[tuple[bool, bool], Callable[..., Method]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _through(gate: Gate, answer: Answer, decode: Decode | None) -> Answer:
    async def answer_through(raw: object, context: Context) -> object:
        return await gate(raw, context, decode, answer)

    return answer_through


def _refusing(decode: Decode) -> Decode:
    def decode_or_refuse(raw: bytes) -> object:
        try:
            return decode(raw)
        except DecodeError:
            raise refuse(
                Refusal.INVALID_REQUEST, "the request is not a valid message of its type"
            ) from None

    return decode_or_refuse


def _answer_one(behaviour: Behaviour) -> Answer:
    async def answer(request: object, context: Context) -> object:
        return await cast("Awaitable[object]", behaviour(request, context))

    return answer


def _answer_stream(behaviour: Behaviour, stall_ms: int) -> Answer:
    async def answer(request: object, context: Context) -> None:
        with Outlet(context, stall_ms) as outlet:
            await stream(request, cast("Context", outlet))

    async def stream(request: object, context: Context) -> None:
        result = behaviour(request, context)
        if not isinstance(result, AsyncIterable):
            await cast("Awaitable[None]", result)
            return
        # Iterated here instead of by grpc, so that what it raises is seen: as many steps a message, ours for theirs.
        try:
            async for message in result:
                await context.write(message)
        finally:
            if isinstance(result, AsyncGenerator):
                # Its own `finally` runs now and not when the garbage collector comes round.
                await result.aclose()

    return answer


class _Tally(NamedTuple):
    """Where the calls of one method are counted, and as what."""

    meter: CallMeter
    is_stream: bool


def _guarded(
    name: str, answer: Answer, decode: Decode | None, telemetry: Telemetry, tally: _Tally
) -> Answer:
    async def guarded(raw: object, context: Context) -> object:
        call = _Call(name, context, telemetry, tally)
        try:
            request = decode(cast("bytes", raw)) if decode else raw
            return await answer(request, context)
        except BaseException as fault:  # noqa: BLE001  # `fail` answers it or raises it again
            await call.fail(fault)
        finally:
            call.end()

    return guarded


class _Call:
    """One call from its first byte to its status."""

    __slots__ = ("_began", "_code", "_context", "_has_broken", "_name", "_span", "_tally", "_token")

    def __init__(self, name: str, context: Context, telemetry: Telemetry, tally: _Tally) -> None:
        self._name = name
        self._context = context
        self._code = grpc.StatusCode.OK
        self._has_broken = False
        self._tally = tally
        tally.meter.begin()
        self._began = time.perf_counter()
        self._span: Span | None = None
        self._token = self._enter(telemetry)

    def _enter(self, telemetry: Telemetry) -> Token[otel_context.Context] | None:
        traceparent = _traceparent_of(self._context)
        if not telemetry.enabled:
            # Nothing of our own to tell, but a trace that passes through must come out at the other side.
            return otel_context.attach(telemetry.context_from(traceparent)) if traceparent else None
        parent = telemetry.context_from(traceparent)
        attributes = {semconv.RPC_SYSTEM: semconv.RPC_SYSTEM_GRPC, semconv.RPC_METHOD: self._name}
        self._span = telemetry.tracer.start_span(
            self._name, context=parent, kind=SpanKind.SERVER, attributes=attributes
        )
        return otel_context.attach(trace.set_span_in_context(self._span, parent))

    async def fail(self, fault: BaseException) -> NoReturn:
        """Answer what the method raised. Never returns: grpc ends a call by an exception."""
        try:
            await self._answer(fault)
        except grpc.aio.InternalError:
            # The peer hung up, so there is nobody left to answer; grpc notices it a moment before it cancels us.
            self._code = _cancelled_code(self._context)
            raise asyncio.CancelledError from None

    async def _answer(self, fault: BaseException) -> NoReturn:
        refusal = _refusal_in(fault)
        if refusal:
            if refusal.refused.reason is Refusal.READER_STALLED:
                _log.info("reader_stalled", method=self._name)
            await self._refuse(refusal.refused)
        match fault:
            case asyncio.CancelledError():
                self._code = _cancelled_code(self._context)
                raise fault
            case grpc.aio.AbortError():
                self._code = _code_of(self._context)
                raise fault
            case NotImplementedError() if _code_of(self._context) is _UNIMPLEMENTED:
                self._code = _UNIMPLEMENTED
                await self._context.abort(_UNIMPLEMENTED, "this method is not implemented")
            case grpc.aio.InternalError():
                # A message could not be sent. Usually nobody is there any more and this fails too; whoever is still
                # there must not wait for ever.
                _log.info("rpc_link_failed", method=self._name)
                await self._refuse(_INTERNAL)
            case Exception():
                _log.error("rpc_failed", method=self._name, exc_info=fault)
                self._has_broken = True
                await self._refuse(_INTERNAL)
            case _:
                raise fault

    async def _refuse(self, refused: Refused) -> NoReturn:
        status = to_status(refused)
        self._code = CODES[refused.reason]
        if self._span:
            self._span.set_attribute(semconv.REFUSAL_REASON, refused.reason.value)
        details = (STATUS_DETAILS_KEY, status.SerializeToString())
        try:
            # A status comes after all that was sent, so to a peer that does not read it goes when that reads, or never.
            async with asyncio.timeout(limits.STATUS_PATIENCE_MS / 1000):
                await self._context.abort(self._code, status.message, (details,))
        except TimeoutError:
            raise asyncio.CancelledError from None

    def end(self) -> None:
        """Finish the span and write the access line."""
        if self._span:
            self._span.set_attribute(semconv.RPC_STATUS, self._code.name)
            if self._code in _FAULTS:
                self._span.set_attribute(semconv.ERROR_TYPE, self._code.name)
                self._span.set_status(StatusCode.ERROR)
            self._span.end()
        if self._token is not None:
            otel_context.detach(self._token)
        ended = time.perf_counter()
        took_ms = round((ended - self._began) * 1_000, 3)
        is_late = self._code is grpc.StatusCode.DEADLINE_EXCEEDED and not self._tally.is_stream
        self._tally.meter.end(
            ended,
            took_ms,
            has_broken=self._has_broken or is_late,
            is_stream=self._tally.is_stream,
        )
        _log.debug("rpc_done", method=self._name, code=self._code.name, took_ms=took_ms)


_CODES_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def _refusal_in(fault: BaseException) -> RpcRefusal | None:
    """Return the refusal that `fault` is, or that is all a task group inside the method has to say."""
    while isinstance(fault, BaseExceptionGroup):
        refusals, others = fault.split(RpcRefusal)
        if refusals is None or others is not None:
            return None
        fault = refusals.exceptions[0]
    return fault if isinstance(fault, RpcRefusal) else None


def _cancelled_code(context: Context) -> grpc.StatusCode:
    remaining_s = cast("float | None", context.time_remaining())
    late = remaining_s is not None and remaining_s <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED


def _code_of(context: Context) -> grpc.StatusCode:
    code: object = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    return _CODES_BY_NUMBER.get(cast("int", code), grpc.StatusCode.UNKNOWN)


def _traceparent_of(context: Context) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == semconv.TRACEPARENT:
            return str(value)
    return ""
