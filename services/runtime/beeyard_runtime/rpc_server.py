"""One gRPC server as every service runs it: health, reflection, keepalive, limits, and an admin listener beside it.

Services are registered through `register`, which wraps their methods (see `rpc_methods`). The admin listener carries
channelz, health and reflection only, so that it may be closed off without closing the service.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

import grpc
from beeyard_core import limits
from grpc_channelz.v1 import _async as channelz_aio
from grpc_channelz.v1 import channelz_pb2_grpc
from grpc_health.v1 import health_pb2_grpc

from beeyard_runtime.call_meter import CallFigures, CallMeter
from beeyard_runtime.faults import ListenFailed
from beeyard_runtime.health import Health
from beeyard_runtime.listening import allowed_address, bind_socket
from beeyard_runtime.log import get_log
from beeyard_runtime.reflection import add_reflection
from beeyard_runtime.rpc_methods import Method, wrap_method
from beeyard_runtime.security.protection import Protection, unprotected
from beeyard_runtime.telemetry import Telemetry

__all__ = ["ListenFailed", "RpcServer"]

ServicerT = TypeVar("ServicerT")
AddToServer = Callable[[ServicerT, grpc.aio.Server], None]

_OPTIONS = (
    ("grpc.keepalive_time_ms", limits.KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", limits.KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", limits.KEEPALIVE_TIMEOUT_MS),  # see `rpc_channel`
    ("grpc.keepalive_permit_without_calls", 1),
    # A server that does not say this answers our clients' keepalive with too_many_pings. (The C core's macro has RECV
    # in its name, the option has not, and a misspelt option is ignored; a test waits for the fourth ping.)
    ("grpc.http2.min_ping_interval_without_data_ms", limits.KEEPALIVE_PING_GAP_MS),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_concurrent_streams", limits.CONCURRENT_STREAMS_MAX),
    # From the first on some are dropped by chance, from the second on all.
    ("grpc.server.max_pending_requests", limits.PENDING_RPCS_MAX),
    ("grpc.server.max_pending_requests_hard_limit", limits.PENDING_RPCS_MAX),
    ("grpc.max_receive_message_length", limits.MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", limits.MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", limits.METADATA_BYTES_MAX),
    ("grpc.absolute_max_metadata_size", limits.METADATA_BYTES_MAX),
    # A reader that stops lets a server run this far ahead and no further; with probing it was 5 MB.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", limits.STREAM_WINDOW_BYTES),
    # Otherwise two servers share a port and each gets half of the calls.
    ("grpc.so_reuseport", 0),
)


class RpcServer:
    """A server that is registered first, then started, drained and stopped, in that order.

    It is SERVING from `start` on, unless `set_serving(False)` was called before.
    """

    def __init__(
        self,
        name: str,
        *,
        listen: str,
        admin_listen: str | None = None,
        telemetry: Telemetry,
        protection: Protection | None = None,
        stall_ms: int = limits.STREAM_STALL_MS,
    ) -> None:
        """Prepare a server; nothing is bound yet.

        Args:
            name: The role, for logs.
            listen: `host:port`; port 0 takes a free one.
            admin_listen: The same for channelz, health and reflection; None: no admin listener.
            telemetry: Where the server spans go.
            protection: Of both listeners; None: what suits a machine of one's own.
            stall_ms: After so many milliseconds a peer is cut that reads nothing of a stream (see `outlet`).
        """
        self._name = name
        self._listen = listen
        self._admin_listen = admin_listen
        self._health = Health()
        self._is_held_back = False
        self._meter = CallMeter()
        protection = protection or unprotected()
        self._guard = protection.guard
        self._keeper: asyncio.Task[None] | None = None
        self._main = _Listener(telemetry, protection, self._meter, stall_ms)
        self._admin = _Listener(telemetry, protection) if admin_listen is not None else None
        self.address = ""
        self.admin_address = ""

    def register(self, add_to_server: AddToServer[ServicerT], servicer: ServicerT) -> None:
        """Serve `servicer`, with the generated `add_XServicer_to_server`. Only before `start`."""
        self._main.register(add_to_server, servicer)

    def set_serving(self, serving: bool) -> None:  # noqa: FBT001  # one word at the call says it all
        """Tell health checks whether calls are welcome. Without effect once drained."""
        self._is_held_back = not serving
        self._health.set_serving(serving=serving)

    def call_figures(self) -> CallFigures:
        """Return how its calls are doing, without those of the admin listener."""
        return self._meter.figures(time.perf_counter())

    async def start(self) -> int:
        """Bind and serve.

        Returns:
            The bound port.

        Raises:
            ListenFailed: The address is taken, malformed, or not loopback and not protected.
        """
        for service in self._main.services:
            self._health.add(service)
        self._main.register(health_pb2_grpc.add_HealthServicer_to_server, self._health)
        self._main.reflect()
        port, self.address = self._main.bind(self._listen)
        if self._admin and self._admin_listen is not None:
            self._admin.register(
                channelz_pb2_grpc.add_ChannelzServicer_to_server, channelz_aio.ChannelzServicer()
            )
            self._admin.register(health_pb2_grpc.add_HealthServicer_to_server, self._health)
            self._admin.reflect()
            _, self.admin_address = self._admin.bind(self._admin_listen)
            await self._admin.server.start()
        await self._main.server.start()
        if self._guard.is_closed:
            self._keeper = asyncio.create_task(self._guard.keep())
        if not self._is_held_back:
            self._health.set_serving(serving=True)
        get_log("rpc").info(
            "listening", role=self._name, address=self.address, admin=self.admin_address
        )
        return port

    async def drain(self) -> None:
        """Tell health checks, for good, to send calls elsewhere; calls that come nevertheless are still answered.

        The service then tells its long streams itself, since stopping a server does not.
        """
        self._health.drain()
        # Watchers write before the caller goes on to end their connections.
        await asyncio.sleep(0)

    async def stop(self, grace_ms: int = limits.DRAIN_GRACE_MS) -> None:
        """Take no new calls, let running ones end for `grace_ms` milliseconds, then cancel them. Idempotent."""
        self._health.close()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        servers = [self._main.server, *([self._admin.server] if self._admin else [])]
        await asyncio.gather(*(server.stop(max(grace_ms, 0) / 1_000) for server in servers))


class _Listener:
    """One bound port. Given to generated code as if it were the server, it wraps each method on its way in."""

    def __init__(
        self,
        telemetry: Telemetry,
        protection: Protection,
        meter: CallMeter | None = None,
        stall_ms: int = limits.STREAM_STALL_MS,
    ) -> None:
        self._telemetry = telemetry
        self._protection = protection
        self._meter = meter
        self._stall_ms = stall_ms
        self.services: list[str] = []
        self.server = grpc.aio.server(
            options=_OPTIONS, maximum_concurrent_rpcs=limits.CONCURRENT_RPCS_MAX
        )

    def register(self, add_to_server: AddToServer[ServicerT], servicer: ServicerT) -> None:
        before = len(self.services)
        add_to_server(servicer, cast("grpc.aio.Server", self))
        # Generated code from before grpcio 1.65 offers its methods in the other form only, which is ignored below.
        assert len(self.services) > before, (
            "registered twice, or generated by a grpcio-tools that is too old"
        )

    def reflect(self) -> None:
        add_reflection(list(self.services), cast("grpc.aio.Server", self))

    def add_registered_method_handlers(self, service: str, methods: Mapping[str, Method]) -> None:
        """Take the methods of one service, as generated code of grpcio 1.65 and later offers them.

        They are handed on in the older, generic form: grpc.aio waits for each registered method by itself and goes
        through all of them at every call, which cost a fifth of a call at twenty methods.
        """
        if service not in self.services:
            self.services.append(service)
        guard = self._protection.guard
        wrapped = {
            name: wrap_method(
                f"/{service}/{name}", method, self._telemetry, self._meter, guard, self._stall_ms
            )
            for name, method in methods.items()
        }
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, wrapped),)
        )

    def add_generic_rpc_handlers(self, rooms: Sequence[object]) -> None:
        """Ignore what is offered again as registered methods, and would come here unwrapped."""

    def bind(self, listen: str) -> tuple[int, str]:
        host, port = allowed_address(listen, is_protected=self._protection.is_complete)
        bind_socket(host, port, listen).close()
        shown = f"[{host}]" if ":" in host else host
        credentials = self._protection.tls.server_credentials()
        try:
            if credentials is None:
                bound = self.server.add_insecure_port(f"{shown}:{port}")
            else:
                bound = self.server.add_secure_port(f"{shown}:{port}", credentials)
        except RuntimeError:
            raise ListenFailed(
                f"cannot listen on {listen}: the address was taken just now"
            ) from None
        return bound, f"{shown}:{bound}"
