"""Asking workers how they are, while other tasks close the channels that the questions go over."""

import asyncio

import pytest
from beeyard.worker.v1 import engine_service_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2_grpc as rpc
from beeyard_pool_manager.workers.engine_link import GrpcEngineLink
from beeyard_runtime.rpc_server import RpcServer
from beeyard_runtime.telemetry import Telemetry


class SilentWorker(rpc.EngineServiceServicer):
    """Takes every call and answers none."""

    def __init__(self) -> None:
        self.called = asyncio.Event()

    async def Drain(self, request: pb.DrainRequest, context: object) -> pb.EngineStatus:  # noqa: N802
        self.called.set()
        await asyncio.Event().wait()
        raise AssertionError


@pytest.fixture
async def worker() -> SilentWorker:
    return SilentWorker()  # type: ignore[abstract]


async def test_a_channel_that_is_closed_meanwhile_is_no_answer(worker: SilentWorker) -> None:
    server = RpcServer("worker", listen="127.0.0.1:0", telemetry=Telemetry())
    server.register(rpc.add_EngineServiceServicer_to_server, worker)
    await server.start()
    link = GrpcEngineLink("pool")
    try:
        draining = asyncio.create_task(link.drain(server.address, grace_ms=1))
        await worker.called.wait()
        await link.close()
        assert await draining is False
    finally:
        await link.close()
        await server.stop(0)


async def test_a_task_that_is_cancelled_itself_ends(worker: SilentWorker) -> None:
    server = RpcServer("worker", listen="127.0.0.1:0", telemetry=Telemetry())
    server.register(rpc.add_EngineServiceServicer_to_server, worker)
    await server.start()
    link = GrpcEngineLink("pool")
    try:
        draining = asyncio.create_task(link.drain(server.address, grace_ms=1))
        await worker.called.wait()
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
    finally:
        await link.close()
        await server.stop(0)
