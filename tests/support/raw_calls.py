"""Calls of bytes as they are, for tests of what a server does with requests that no generated client would send."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # ships none
from grpc_status import rpc_status

from tests.support.reflection import ServedMethod

CALL_TIMEOUT_S = 20.0
_EOF: object = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs have forgotten it
_WROTE_TOO_LATE = "Internal error from Core"


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


async def converse(
    channel: grpc.aio.Channel,
    method: ServedMethod,
    requests: Sequence[bytes],
    *,
    closes: bool,
    silence_s: float,
) -> Outcome:
    """Send a stream's requests one after the other, read what comes until it keeps silent, and hang up.

    A client of grpc.aio that writes to a stream just ended is told of its own mistake and not of the server's answer;
    the server has got enough then, and is asked again with one request less, the last as one that comes whole.

    Args:
        channel: To the server.
        method: With a stream in either direction.
        requests: In order; just one where the client does not stream.
        closes: Whether the client says that it has nothing more to send.
        silence_s: How long the server may keep silent before it is left, which is OK.
    """
    told = await _converse(channel, method, requests, closes=closes, silence_s=silence_s)
    while told.message == _WROTE_TOO_LATE and not told.reason and method.takes_stream:
        method = dataclasses.replace(method, takes_stream=len(requests) > 1)
        requests = requests[:-1] or requests
        told = await _converse(channel, method, requests, closes=closes, silence_s=silence_s)
    return told


async def _converse(
    channel: grpc.aio.Channel,
    method: ServedMethod,
    requests: Sequence[bytes],
    *,
    closes: bool,
    silence_s: float,
) -> Outcome:
    running = _start(channel, method, requests[0] if requests else b"")
    try:
        # An error if the server has ended the stream already; what it said comes with the reading.
        with contextlib.suppress(asyncio.InvalidStateError):
            if method.takes_stream:
                await _write(running, requests, closes=closes)
        async with asyncio.timeout(silence_s) as patience:
            while await running.read() is not _EOF:
                patience.reschedule(asyncio.get_running_loop().time() + silence_s)
        return Outcome(await running.code(), await running.details() or "")
    except grpc.aio.AioRpcError as error:
        return outcome(error)
    except TimeoutError:
        return Outcome(grpc.StatusCode.OK)
    finally:
        running.cancel()


async def _write(running: Any, requests: Sequence[bytes], *, closes: bool) -> None:
    for request in requests:
        await running.write(request)
    if closes:
        await running.done_writing()


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


async def ending_of(
    channel: grpc.aio.Channel,
    name: str,
    said: bytes,
    shown: Sequence[tuple[str, str]],
    timeout: float = 20.0,
) -> grpc.StatusCode:
    """Say one message to `package.Service/Method`; return how that ends, OK as soon as something comes back."""
    method = channel.stream_stream(f"/{name}", _same, _same)
    call = method(iter([said]), metadata=shown, timeout=timeout)
    try:
        await call.read()
        return await call.code() if call.done() else grpc.StatusCode.OK
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        call.cancel()


def _same(raw: bytes) -> bytes:
    return raw
