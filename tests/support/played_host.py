"""A pool manager that a test plays: its stream to the queen, and what it reports of its host."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
from beeyard.pool.v1 import pool_service_pb2 as pb
from beeyard.pool.v1 import pool_service_pb2_grpc as rpc
from beeyard.pool.v1 import snapshot_pb2

from tests.support.running_queen import RunningQueen

GIB = 1 << 30
#: A host that has little to do: one that says nothing of its load gets no work.
CALM = snapshot_pb2.HostLoad(
    cpu_count=4,
    cpu_utilization=0.1,
    memory_total_bytes=100 * GIB,
    memory_available_bytes=80 * GIB,
)


def snapshot(pool_id: str = "host", **changes: object) -> snapshot_pb2.HostSnapshot:
    """A host with one GPU of 8 GiB and the model `tiny`."""
    host = snapshot_pb2.HostSnapshot(
        pool_id=pool_id,
        load=CALM,
        devices=[
            snapshot_pb2.Device(
                uuid="GPU-0",
                kind=snapshot_pb2.DEVICE_KIND_GPU,
                name="scripted",
                vram_total_bytes=8 * GIB,
                vram_free_bytes=8 * GIB,
                compute_capability="8.6",
            )
        ],
        models=[
            snapshot_pb2.CachedModel(
                model="tiny",
                engine="synthetic",
                required_bytes=GIB,
                size_bytes=GIB // 2,
                quantization="Q4_K_M",
                context_tokens=2_048,
            )
        ],
    )
    host.MergeFrom(snapshot_pb2.HostSnapshot(**changes))  # type: ignore[arg-type]
    return host


class Host:
    """A pool manager's stream, played by the test."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.told: list[pb.SynchronizeResponse] = []
        self.error: grpc.aio.AioRpcError | None = None
        # Without an iterator: the call is written by hand, which the stubs do not know.
        self.call = rpc.PoolServiceStub(channel).Synchronize()  # type: ignore[call-arg]
        self._changed = asyncio.Event()
        self.listening = asyncio.create_task(self._listen())

    async def send(self, host: snapshot_pb2.HostSnapshot) -> None:
        await self.call.write(pb.SynchronizeRequest(snapshot=host))

    async def until(
        self, holds: Callable[[pb.SynchronizeResponse], object]
    ) -> pb.SynchronizeResponse:
        """Return the latest list once it is as wanted."""
        async with asyncio.timeout(10):
            while not self.told or not holds(self.told[-1]):
                self._changed.clear()
                await self._changed.wait()
        return self.told[-1]

    async def _listen(self) -> None:
        try:
            while isinstance(answer := await self.call.read(), pb.SynchronizeResponse):
                self.told.append(answer)
                self._changed.set()
        except grpc.aio.AioRpcError as error:
            self.error = error
        except asyncio.CancelledError:
            pass  # the call was cancelled on this side


@asynccontextmanager
async def connected(
    queen: RunningQueen, first: snapshot_pb2.HostSnapshot | None = None
) -> AsyncIterator[Host]:
    host = Host(queen.channel)
    try:
        await host.send(first or snapshot())
        yield host
    finally:
        host.call.cancel()
        await asyncio.wait([host.listening])
