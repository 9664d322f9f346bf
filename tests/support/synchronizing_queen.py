"""A queen that only keeps the stream of pool managers, and says what a test says."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
from beeyard.pool.v1 import pool_service_pb2 as pb
from beeyard.pool.v1 import snapshot_pb2
from beeyard.pool.v1.pool_service_pb2_grpc import PoolServiceServicer

PATIENCE_S = 30.0
_RESPONSES_MAX = 64


def running(worker_id: str, model: str, device: str = "") -> pb.DesiredWorker:
    """Return a worker that should run."""
    state = pb.DESIRED_STATE_RUNNING
    return pb.DesiredWorker(worker_id=worker_id, model=model, device=device, state=state)


class SynchronizingQueen(PoolServiceServicer):
    """Remembers the last snapshots and counts the streams."""

    def __init__(self) -> None:
        """Have heard nothing yet."""
        self.streams = 0
        self.snapshots: list[snapshot_pb2.HostSnapshot] = []
        self._changed = asyncio.Event()
        self._responses: asyncio.Queue[pb.SynchronizeResponse | None] = asyncio.Queue(
            _RESPONSES_MAX
        )

    async def Synchronize(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.SynchronizeRequest],
        context: grpc.aio.ServicerContext,  # type: ignore[type-arg]
    ) -> AsyncIterator[pb.SynchronizeResponse]:
        """Take snapshots and give out responses; a None among them breaks the stream."""
        self.streams += 1
        reader = asyncio.create_task(self._read(request_iterator))
        try:
            while True:
                response = await self._responses.get()
                if response is None:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "the queen has a headache")
                else:
                    yield response
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    def say(
        self,
        *workers: pb.DesiredWorker,
        authoritative: bool = False,
        report_interval_ms: int = 0,
    ) -> None:
        """Send a list of what should be."""
        self._responses.put_nowait(
            pb.SynchronizeResponse(
                workers=workers, authoritative=authoritative, report_interval_ms=report_interval_ms
            )
        )

    def break_stream(self) -> None:
        """End the stream with an error."""
        self._responses.put_nowait(None)

    async def until(
        self, holds: Callable[[snapshot_pb2.HostSnapshot], bool], *, fresh: bool = False
    ) -> snapshot_pb2.HostSnapshot:
        """Return the first snapshot that is heard of which `holds` is true.

        Args:
            holds: The condition.
            fresh: Only snapshots that come from now on count.
        """
        seen = len(self.snapshots) if fresh else 0
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    for position in range(seen, len(self.snapshots)):
                        if holds(self.snapshots[position]):
                            return self.snapshots[position]
                    seen = len(self.snapshots)
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            last = self.snapshots[-1] if self.snapshots else "nothing"
            raise AssertionError(f"it never happened; the last snapshot: {last}") from None

    async def _read(self, requests: AsyncIterator[pb.SynchronizeRequest]) -> None:
        async for request in requests:
            self.snapshots.append(request.snapshot)
            self._changed.set()
