"""How a client shows who it is, and knows that the other side is the queen: a token, and certificates."""

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import grpc

from beeyard_client.errors import INSECURE_LINK, BeeyardError

_Method = Callable[..., object]
_Maker = Callable[..., _Method]
_Metadata = Iterable[tuple[str, str | bytes]]
_Options = Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Access:
    """Who a client is.

    Attributes:
        token: Its bearer token; empty: it has none. Sent over TLS and to loopback only.
        ca: A file with the authorities that sign the queen's certificate (PEM); None: the link is plain.
        cert: A file with the client's own certificate, where queens want to see one (PEM); needs `ca` and `key`.
        key: A file with the key of `cert` (PEM).
    """

    token: str = field(default="", repr=False)
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        """Refuse half of a pair."""
        if (self.cert is None) != (self.key is None) or (self.cert is not None and self.ca is None):
            raise ValueError("cert and key belong together, and need ca")

    def is_safe_for(self, address: str) -> bool:
        """Whether nobody else can read the token on its way to HOST:PORT."""
        return not self.token or self.ca is not None or _is_loopback(address)

    def open_channel(self, address: str, options: _Options) -> grpc.aio.Channel:
        """Return a channel to HOST:PORT.

        Raises:
            BeeyardError: INSECURE_LINK: the token would travel in the clear.
            OSError: A file cannot be read.
        """
        if not self.is_safe_for(address):
            reason = f"a token is not sent to {address} without TLS; name the authorities with ca"
            raise BeeyardError(INSECURE_LINK, reason)
        if self.ca is None:
            channel = grpc.aio.insecure_channel(address, options=options)
        else:
            channel = grpc.aio.secure_channel(address, self._credentials(self.ca), options=options)
        if not self.token:
            return channel
        return cast("grpc.aio.Channel", _TokenChannel(channel, self.token))

    def _credentials(self, ca: Path) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(
            ca.read_bytes(),
            self.key.read_bytes() if self.key else None,
            self.cert.read_bytes() if self.cert else None,
        )


NOBODY = Access()


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _TokenChannel:
    """A channel whose calls carry a token.

    Each method is wrapped once: grpc.aio's interceptors would put a queue between a caller and each message.
    """

    def __init__(self, channel: grpc.aio.Channel, token: str) -> None:
        self._channel = channel
        self._shown = ("authorization", f"Bearer {token}")

    def __getattr__(self, name: str) -> object:
        return getattr(self._channel, name)

    def unary_unary(self, *args: object, **kwargs: object) -> _Method:
        return self._carry(cast("_Maker", self._channel.unary_unary)(*args, **kwargs))

    def unary_stream(self, *args: object, **kwargs: object) -> _Method:
        return self._carry(cast("_Maker", self._channel.unary_stream)(*args, **kwargs))

    def stream_unary(self, *args: object, **kwargs: object) -> _Method:
        return self._carry(cast("_Maker", self._channel.stream_unary)(*args, **kwargs))

    def stream_stream(self, *args: object, **kwargs: object) -> _Method:
        return self._carry(cast("_Maker", self._channel.stream_stream)(*args, **kwargs))

    def _carry(self, method: _Method) -> _Method:
        shown = self._shown

        def call(*args: object, metadata: _Metadata | None = None, **kwargs: object) -> object:
            return method(*args, metadata=(*(metadata or ()), shown), **kwargs)

        return call
