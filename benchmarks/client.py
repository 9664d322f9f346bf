"""What the benchmark's clients share."""

import asyncio

import grpc
from beeyard.queen.v1 import fleet_service_pb2 as pb
from beeyard.queen.v1 import fleet_service_pb2_grpc
from beeyard.worker.v1 import engine_service_pb2 as engine_pb

_READY_S = 30.0


async def serving_worker(channel: grpc.aio.Channel) -> None:
    """Return once a worker of the queen is ready."""
    await serving_workers(channel, 1)


async def serving_workers(channel: grpc.aio.Channel, count: int) -> None:
    """Return once so many workers of the queen are ready."""
    stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
    call = stub.WatchFleet(pb.WatchFleetRequest(min_interval_ms=100))
    try:
        async with asyncio.timeout(_READY_S):
            async for snapshot in call:
                ready = [
                    w for w in snapshot.workers if w.status.state == engine_pb.WORKER_STATE_READY
                ]
                if len(ready) >= count:
                    return
    finally:
        call.cancel()
