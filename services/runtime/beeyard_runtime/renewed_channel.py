"""A channel whose certificates may be renewed: calls that begin later go over a channel that shows the new ones.

gRPC's own channels show for ever what they were opened with. A call that runs stays where it began, so a long stream
outlives a renewal; the channel that it holds is closed when the next but one has taken over, or with everything else.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import grpc

from beeyard_runtime.security.tls import Tls, TlsSource

_Method = Callable[..., object]
_Open = Callable[[Tls], grpc.aio.Channel]


class RenewedChannel:
    """Stands for the channel of the moment, for generated stubs and whoever watches its connectivity."""

    def __init__(self, tls: TlsSource, dial: _Open) -> None:
        """Dial with what `tls` says now."""
        self._tls = tls
        self._dial = dial
        self._shown = tls.now()
        self._channel = dial(self._shown)
        self._former: grpc.aio.Channel | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._now(), name)

    async def __aenter__(self) -> "RenewedChannel":
        return self

    async def __aexit__(self, *fault: object) -> None:
        await self.close(None)

    async def close(self, grace: float | None = None) -> None:
        """Close every channel; calls get `grace` seconds to end."""
        self._is_closed = True
        every = [self._channel, *([self._former] if self._former else [])]
        await asyncio.gather(*(one.close(grace) for one in every), *self._closing)

    def unary_unary(self, *args: object, **kwargs: object) -> _Method:
        """Return a method of one message each way."""
        return self._method("unary_unary", args, kwargs)

    def unary_stream(self, *args: object, **kwargs: object) -> _Method:
        """Return a method of one message there and a stream back."""
        return self._method("unary_stream", args, kwargs)

    def stream_unary(self, *args: object, **kwargs: object) -> _Method:
        """Return a method of a stream there and one message back."""
        return self._method("stream_unary", args, kwargs)

    def stream_stream(self, *args: object, **kwargs: object) -> _Method:
        """Return a method of a stream each way."""
        return self._method("stream_stream", args, kwargs)

    def _method(self, kind: str, args: tuple[object, ...], kwargs: dict[str, object]) -> _Method:
        def made_on(channel: grpc.aio.Channel) -> _Method:
            return cast("_Method", getattr(channel, kind)(*args, **kwargs))

        channel = self._now()
        method = made_on(channel)

        def call(*arguments: object, **options: object) -> object:
            nonlocal channel, method
            current = self._now()
            if current is not channel:
                channel, method = current, made_on(current)
            return method(*arguments, **options)

        return call

    def _now(self) -> grpc.aio.Channel:
        tls = self._tls.now()
        if tls is not self._shown and not self._is_closed:
            oldest, self._former = self._former, self._channel
            self._shown, self._channel = tls, self._dial(tls)
            if oldest is not None:
                task = asyncio.ensure_future(oldest.close(None))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        return self._channel
