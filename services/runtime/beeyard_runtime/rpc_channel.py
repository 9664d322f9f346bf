"""Channels to other services, all with the same limits, keepalive and trace propagation.

A `traceparent` and a token are added by wrapping each method once, not by grpc.aio's interceptors: those put a queue
and a task between the caller and every message of a stream.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Protocol, TypeVar, cast

import grpc
from beeyard_core import limits

from beeyard_runtime import semconv
from beeyard_runtime.faults import StartFailed
from beeyard_runtime.listening import is_loopback
from beeyard_runtime.renewed_channel import RenewedChannel
from beeyard_runtime.security.dialing import AUTHORIZATION, BEARER, PLAIN, Dialing, TokenSource
from beeyard_runtime.security.tls import Tls
from beeyard_runtime.telemetry import Telemetry

_OPTIONS = (
    ("grpc.keepalive_time_ms", limits.KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", limits.KEEPALIVE_TIMEOUT_MS),
    # The option above only bounds how long sent bytes may go without TCP's acknowledgement. A peer whose kernel goes on
    # acknowledging while nobody answers pings (a frozen process, a silent proxy) went unnoticed for the default minute.
    ("grpc.http2.ping_timeout_ms", limits.KEEPALIVE_TIMEOUT_MS),
    # An idle worker's link must be known to be alive too, and its pings must not run out.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", limits.MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", limits.MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", limits.METADATA_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", limits.METADATA_BYTES_MAX),
    # Without these a stalled reader lets its peer run megabytes ahead.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", limits.STREAM_WINDOW_BYTES),
    ("grpc.initial_reconnect_backoff_ms", limits.RECONNECT_MIN_MS),
    ("grpc.min_reconnect_backoff_ms", limits.RECONNECT_MAX_MS),
    ("grpc.max_reconnect_backoff_ms", limits.RECONNECT_MAX_MS),
    # Retries are ours to decide: the transport does not know what is idempotent.
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    # A control plane inside one site must not be sent through a proxy that the environment names for the web.
    ("grpc.enable_http_proxy", 0),
    # A channel of its own connection: one stalled channel must not hold up another to the same address.
    ("grpc.use_local_subchannel_pool", 1),
)


class _Cancellable(Protocol):
    def cancel(self) -> bool: ...


CallT = TypeVar("CallT", bound=_Cancellable)
_Method = Callable[..., object]
_Metadata = Iterable[tuple[str, str | bytes]]


def open_channel(
    address: str, *, telemetry: Telemetry | None = None, dialing: Dialing = PLAIN
) -> grpc.aio.Channel:
    """Open a channel; it connects by itself when first used, and again when it breaks.

    Args:
        address: `host:port`.
        telemetry: Where the current trace is read from, so that it goes on at the other side; None: no trace travels.
        dialing: What the channel shows, and whose certificates it believes.

    Returns:
        A channel for the generated stubs. Close it with `await channel.close(None)`.

    Raises:
        StartFailed: A token would travel in the clear.
    """
    if dialing.tls.now().ca is None:
        host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
        if dialing.token is not None and not is_loopback(host):
            raise StartFailed(
                f"refusing to send a token to {address} without TLS: name its authorities with tls_ca"
            )
        channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
    else:
        channel = cast("grpc.aio.Channel", RenewedChannel(dialing.tls, _dial(address, dialing)))
    if telemetry is None and dialing.token is None:
        return channel
    return cast("grpc.aio.Channel", _CarryingChannel(channel, telemetry, dialing.token))


def _dial(address: str, dialing: Dialing) -> Callable[[Tls], grpc.aio.Channel]:
    named = (("grpc.ssl_target_name_override", dialing.server_name),)
    options = _OPTIONS + (named if dialing.server_name else ())

    def dial(tls: Tls) -> grpc.aio.Channel:
        credentials = tls.channel_credentials()
        assert credentials is not None, "files that are named stay named"
        return grpc.aio.secure_channel(address, credentials, options=options)

    return dial


@asynccontextmanager
async def stream(call: CallT) -> AsyncIterator[CallT]:
    """Hold a streaming call and cancel it on the way out, whatever happens.

    grpc.aio does not cancel a call that nobody reads any more, so its servicer would run on for ever.
    """
    try:
        yield call
    finally:
        call.cancel()


class Leavable(Protocol):
    """A call that can be left."""

    def cancel(self) -> bool:
        """End it."""
        ...

    async def code(self) -> grpc.StatusCode:
        """Wait until it has ended, and return how."""
        ...


async def leave(call: Leavable, *, has_ended: bool) -> None:
    """Cancel a call; one that has told everything gets a moment, STREAM_END_MS, to end by itself.

    A call that is cut while its server ends it costs a server on grpc.aio memory for good: 80 bytes and the message
    that was under way (https://github.com/grpc/grpc/issues/43360).
    """
    try:
        if has_ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(limits.STREAM_END_MS / 1_000):
                    await call.code()
    finally:
        call.cancel()


class _CarryingChannel:
    """A channel whose calls carry the caller's trace and a token."""

    def __init__(
        self, channel: grpc.aio.Channel, telemetry: Telemetry | None, token: TokenSource | None
    ) -> None:
        self._channel = channel
        self._telemetry = telemetry
        self._token = token

    def __getattr__(self, name: str) -> object:
        return getattr(self._channel, name)

    async def __aenter__(self) -> "_CarryingChannel":
        await self._channel.__aenter__()
        return self

    async def __aexit__(self, *fault: object) -> None:
        await self._channel.close(None)

    def unary_unary(self, *args: object, **kwargs: object) -> _Method:
        return self._carry(
            cast("Callable[..., _Method]", self._channel.unary_unary)(*args, **kwargs)
        )

    def unary_stream(self, *args: object, **kwargs: object) -> _Method:
        return self._carry(
            cast("Callable[..., _Method]", self._channel.unary_stream)(*args, **kwargs)
        )

    def stream_unary(self, *args: object, **kwargs: object) -> _Method:
        return self._carry(
            cast("Callable[..., _Method]", self._channel.stream_unary)(*args, **kwargs)
        )

    def stream_stream(self, *args: object, **kwargs: object) -> _Method:
        return self._carry(
            cast("Callable[..., _Method]", self._channel.stream_stream)(*args, **kwargs)
        )

    def _carry(self, method: _Method) -> _Method:
        telemetry, token = self._telemetry, self._token

        def call(*args: object, metadata: _Metadata | None = None, **kwargs: object) -> object:
            traceparent = telemetry.traceparent() if telemetry is not None else ""
            if traceparent:
                metadata = (*(metadata or ()), (semconv.TRACEPARENT, traceparent))
            shown = token() if token is not None else ""
            if shown:
                metadata = (*(metadata or ()), (AUTHORIZATION, f"{BEARER}{shown}"))
            return method(*args, metadata=metadata, **kwargs)

        return call
