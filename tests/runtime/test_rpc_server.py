"""A server binds what it may, says what it serves, and goes in order."""

import asyncio
import socket

import grpc
import pytest
from beeyard.worker.v1 import engine_service_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2_grpc as pb_grpc
from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.rpc_channel import open_channel, stream
from beeyard_runtime.rpc_errors import from_error
from beeyard_runtime.rpc_server import ListenFailed, RpcServer
from beeyard_runtime.telemetry import Telemetry
from beeyard_runtime.testing import Served, serving
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from tests.support.scripted import ENGINE_TO_SERVER, Context, scripted_engine

_ENGINE = "beeyard.worker.v1.EngineService"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
_REFLECTIONS = ["grpc.reflection.v1", "grpc.reflection.v1alpha"]


async def _status(request: pb.GetStatusRequest, context: Context) -> pb.EngineStatus:
    return pb.EngineStatus()


def _server(listen: str = "127.0.0.1:0", admin: str | None = None) -> RpcServer:
    return RpcServer("test", listen=listen, admin_listen=admin, telemetry=Telemetry())


async def _check(channel: grpc.aio.Channel, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    status: int = answer.status
    return status


async def _reflect(
    channel: grpc.aio.Channel, package: str, **question: str
) -> reflection_pb2.ServerReflectionResponse:
    method = channel.stream_stream(
        f"/{package}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    async with stream(method(None)) as call:
        await call.write(reflection_pb2.ServerReflectionRequest(**question))
        return await call.read()


async def test_start_returns_the_bound_port() -> None:
    server = _server()
    port = await server.start()
    assert server.address == f"127.0.0.1:{port}"
    assert port > 0
    assert server.admin_address == ""
    await server.stop(0)
    await server.stop(0)


async def test_ipv6_loopback_and_localhost_are_loopback() -> None:
    server = _server("localhost:0")
    port = await server.start()
    assert server.address == f"localhost:{port}"
    await server.stop(0)
    if socket.has_ipv6:
        server = _server("[::1]:0")
        try:
            port = await server.start()
        except ListenFailed:
            pytest.skip("no IPv6 loopback on this machine")
        assert server.address == f"[::1]:{port}"
        await server.stop(0)


async def test_a_port_in_use_is_one_clear_line() -> None:
    async with serving() as served:
        with pytest.raises(ListenFailed) as caught:
            await _server(served.address).start()
    assert str(caught.value) == (
        f"cannot listen on {served.address}: the port is in use; "
        "stop what holds it or choose another port"
    )


async def test_a_port_of_the_admin_listener_in_use_is_noticed_too() -> None:
    async with serving() as served:
        server = _server(admin=served.address)
        with pytest.raises(ListenFailed, match="in use"):
            await server.start()
        await server.stop(0)


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:0", "[::]:0", ":7700", "10.0.0.1:7700", "queen.example:7700"]
)
async def test_an_open_address_is_refused_until_there_are_tls_and_tokens(listen: str) -> None:
    with pytest.raises(ListenFailed, match="without TLS and tokens") as caught:
        await _server(listen).start()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "listen", ["", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "127.0.0.1:-1"]
)
async def test_a_malformed_address_is_refused(listen: str) -> None:
    with pytest.raises(ListenFailed, match="write HOST:PORT"):
        await _server(listen).start()


async def test_a_privileged_or_foreign_address_says_why() -> None:
    with pytest.raises(ListenFailed, match="cannot listen on"):
        # Loopback, but of nobody: TEST-NET is not, so an unassigned IPv6 zone does not exist either.
        await _server("[::1%nope]:0").start()


async def test_health_is_told_for_the_process_and_each_service() -> None:
    async with serving((ENGINE_TO_SERVER, scripted_engine(_status))) as served:
        assert await _check(served.channel) == _SERVING
        assert await _check(served.channel, _ENGINE) == _SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _check(served.channel, "beeyard.Nope")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        served.server.set_serving(False)
        assert await _check(served.channel, _ENGINE) == _NOT_SERVING
        served.server.set_serving(True)
        assert await _check(served.channel) == _SERVING
        listed = await health_pb2_grpc.HealthStub(served.channel).List(
            health_pb2.HealthListRequest()
        )
        assert {name: it.status for name, it in listed.statuses.items()} == {
            "": _SERVING,
            _ENGINE: _SERVING,
        }


async def test_a_server_may_start_before_it_is_ready() -> None:
    server = _server()
    server.set_serving(False)
    await server.start()
    channel = open_channel(server.address)
    assert await _check(channel) == _NOT_SERVING
    server.set_serving(True)
    assert await _check(channel) == _SERVING
    await channel.close(None)
    await server.stop(0)


async def test_a_drain_is_told_to_watchers_and_is_for_good() -> None:
    async with serving((ENGINE_TO_SERVER, scripted_engine(_status))) as served:
        health = health_pb2_grpc.HealthStub(served.channel)
        async with stream(health.Watch(health_pb2.HealthCheckRequest(service=_ENGINE))) as watch:
            assert (await watch.read()).status == _SERVING
            await served.server.drain()
            assert (await watch.read()).status == _NOT_SERVING
            served.server.set_serving(True)
            assert await _check(served.channel) == _NOT_SERVING
            # Calls that come all the same are answered.
            await pb_grpc.EngineServiceStub(served.channel).GetStatus(pb.GetStatusRequest())


async def test_a_watch_of_an_unknown_service_says_so_and_waits() -> None:
    async with serving() as served:
        health = health_pb2_grpc.HealthStub(served.channel)
        async with stream(health.Watch(health_pb2.HealthCheckRequest(service="x"))) as watch:
            assert (await watch.read()).status == _UNKNOWN


async def test_a_watcher_does_not_hold_up_the_stop() -> None:
    async with serving() as served:
        health = health_pb2_grpc.HealthStub(served.channel)
        async with stream(health.Watch(health_pb2.HealthCheckRequest())) as watch:
            await watch.read()
            async with asyncio.timeout(5):
                await served.server.stop(60_000)
            assert (await watch.read()).status == _NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watch.read()
            assert from_error(caught.value).reason is Refusal.DRAINING


async def test_a_running_call_ends_within_the_grace_of_a_stop() -> None:
    began, may_end = asyncio.Event(), asyncio.Event()

    async def get_status(request: pb.GetStatusRequest, context: Context) -> pb.EngineStatus:
        began.set()
        await may_end.wait()
        return pb.EngineStatus(worker_id="w1")

    async with serving((ENGINE_TO_SERVER, scripted_engine(get_status))) as served:
        stub = pb_grpc.EngineServiceStub(served.channel)
        call = stub.GetStatus(pb.GetStatusRequest())
        await began.wait()
        stopping = asyncio.create_task(served.server.stop(60_000))
        await asyncio.sleep(0)
        may_end.set()
        assert (await call).worker_id == "w1"
        await stopping


@pytest.mark.parametrize("package", _REFLECTIONS)
async def test_reflection_lists_every_service(package: str) -> None:
    async with serving((ENGINE_TO_SERVER, scripted_engine(_status))) as served:
        answer = await _reflect(served.channel, package, list_services="")
    assert [service.name for service in answer.list_services_response.service] == [
        _ENGINE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ]


@pytest.mark.parametrize("package", _REFLECTIONS)
async def test_reflection_describes_every_service_it_lists(package: str) -> None:
    async with serving((ENGINE_TO_SERVER, scripted_engine(_status))) as served:
        for symbol in (_ENGINE, *(f"{it}.ServerReflection" for it in _REFLECTIONS)):
            answer = await _reflect(served.channel, package, file_containing_symbol=symbol)
            assert answer.WhichOneof("message_response") == "file_descriptor_response"


async def test_the_admin_listener_has_channelz_and_no_service() -> None:
    async with serving(
        (ENGINE_TO_SERVER, scripted_engine(_status)), admin_listen="127.0.0.1:0"
    ) as served:
        async with open_channel(served.server.admin_address) as channel:
            servers = await channelz_pb2_grpc.ChannelzStub(channel).GetServers(
                channelz_pb2.GetServersRequest()
            )
            assert servers.server
            assert await _check(channel) == _SERVING
            answer = await _reflect(channel, "grpc.reflection.v1", list_services="")
            names = [service.name for service in answer.list_services_response.service]
            assert "grpc.channelz.v1.Channelz" in names
            assert _ENGINE not in names
        assert served.address != served.server.admin_address
        await _has_no_channelz(served)


async def _has_no_channelz(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channelz_pb2_grpc.ChannelzStub(served.channel).GetServers(
            channelz_pb2.GetServersRequest()
        )
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_over_the_limit_is_refused() -> None:
    async with serving((ENGINE_TO_SERVER, scripted_engine(_status))) as served:
        big = grpc.aio.insecure_channel(served.address)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await pb_grpc.EngineServiceStub(big).GetStatus(
                pb.GetStatusRequest(supervisor_id="x" * (5 << 20))
            )
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await big.close(None)


@pytest.mark.slow
async def test_an_idle_link_may_be_pinged_without_being_cut() -> None:
    async with serving() as served:
        ping_ms = limits.KEEPALIVE_PING_GAP_MS + 100
        options = (
            ("grpc.keepalive_time_ms", ping_ms),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        )
        async with grpc.aio.insecure_channel(served.address, options=options) as idle:
            await idle.channel_ready()
            # Two pings too many are forgiven, the third ends the connection: four intervals would show it.
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(4.5 * ping_ms / 1_000):
                    await idle.wait_for_state_change(grpc.ChannelConnectivity.READY)
