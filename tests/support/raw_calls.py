"""Calls of bytes as they are, for tests of what a server does with requests that no generated client would send."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # ships none
from grpc_status import rpc_status

from tests.support.reflection import ServedMethod

CALL_TIMEOUT_S = 20.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call ended.

    Attributes:
        code: The gRPC code.
        message: The status message.
        reason: `ErrorInfo.reason`; empty if there is none.
        domain: `ErrorInfo.domain`.
        field: The first field of `BadRequest`; empty if there is none.
        retry_after_ms: Of `RetryInfo`; None if there is none.
        metadata: Of `ErrorInfo`.
    """

    code: grpc.StatusCode
    message: str = ""
    reason: str = ""
    domain: str = ""
    field: str = ""
    retry_after_ms: int | None = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)


async def call(channel: grpc.aio.Channel, method: ServedMethod, request: bytes) -> Outcome:
    """Send one request, read to the first answer or the end, and return the outcome.

    A method that has answered and goes on is OK: the rest of its stream is cancelled. A stream of requests is left
    open, so that the server judges what it has got and not its end.
    """
    running = _start(channel, method, request)
    try:
        if method.takes_stream:
            await running.write(request)
        if method.gives_stream:
            await running.read()
        else:
            await running
    except grpc.aio.AioRpcError as error:
        return outcome(error)
    finally:
        running.cancel()
    return Outcome(grpc.StatusCode.OK)


async def talk(
    channel: grpc.aio.Channel, method: ServedMethod, first: bytes, second: bytes
) -> Outcome:
    """Open a stream both ways, send one request, wait for an answer, send another, and return how the stream ends."""
    running = _start(channel, method, first)
    try:
        await running.write(first)
        await running.read()
        await running.write(second)
        while await running.read():  # bytes, until EOF, which is falsy
            pass
    except grpc.aio.AioRpcError as error:
        return outcome(error)
    finally:
        running.cancel()
    return Outcome(grpc.StatusCode.OK)


# The stubs want serializers and know four kinds of calls; None, which leaves bytes as they are, is documented by grpc.
def _start(channel: grpc.aio.Channel, method: ServedMethod, first: bytes) -> Any:
    kinds: dict[tuple[bool, bool], Callable[..., Any]] = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    start = kinds[method.takes_stream, method.gives_stream](method.path, None, None)
    body = () if method.takes_stream else (first,)
    return start(*body, timeout=CALL_TIMEOUT_S)


def outcome(error: grpc.aio.AioRpcError) -> Outcome:
    """Return what a failed call says."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # what is read is the same in aio
    reason = domain = at = ""
    retry_after_ms, metadata = None, {}
    for detail in status.details if status else ():
        told = error_details_pb2.ErrorInfo()
        retry = error_details_pb2.RetryInfo()
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(told):
            reason, domain, metadata = told.reason, told.domain, dict(told.metadata)
        elif detail.Unpack(retry):
            retry_after_ms = retry.retry_delay.ToMilliseconds()
        elif detail.Unpack(bad) and bad.field_violations:
            at = bad.field_violations[0].field
    return Outcome(
        error.code(), error.details() or "", reason, domain, at, retry_after_ms, metadata
    )
