"""Keeps the one stream to the queen: snapshots up, the list of wanted workers down.

The queen may be away for as long as it likes: the workers go on, the last list stays in force, and this loop calls
again with a bounded, jittered wait. Both directions carry whole states, so nothing is remembered across a break.
"""

import asyncio
import random
from collections.abc import Callable
from typing import TypeAlias, cast

import grpc
from beeyard.pool.v1 import pool_service_pb2 as pb
from beeyard.pool.v1 import snapshot_pb2
from beeyard.pool.v1.pool_service_pb2_grpc import PoolServiceStub
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard_core import limits
from beeyard_core.fleet import DesiredState, DesiredWorker
from beeyard_core.ids import ModelName, WorkerId
from beeyard_runtime.clock import Clock
from beeyard_runtime.log import get_log
from beeyard_runtime.rpc_channel import stream

from beeyard_pool_manager.host import Host
from beeyard_pool_manager.workers.desired import Desired

_log = get_log("report_loop")
_STATES = {
    pb.DESIRED_STATE_RUNNING: DesiredState.RUNNING,
    pb.DESIRED_STATE_DRAINING: DesiredState.DRAINING,
    pb.DESIRED_STATE_STOPPED: DesiredState.STOPPED,
}
_Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.SynchronizeRequest, pb.SynchronizeResponse]"


class ReportLoop:
    """Reports to one queen.

    Args:
        host: What is reported.
        channel: To the queen.
        clock: The time.
        jitter: Spreads the reconnects of many hosts.
        apply: Called with each list that the queen sends.
        note_reported: Called with the ids of ended workers that a sent snapshot named.
        interval_ms: Time between two snapshots until the queen says otherwise, milliseconds.
    """

    def __init__(
        self,
        host: Host,
        *,
        channel: grpc.aio.Channel,
        clock: Clock,
        jitter: random.Random,
        apply: Callable[[Desired], None],
        note_reported: Callable[[list[str]], None],
        interval_ms: int = limits.REPORT_INTERVAL_MS,
    ) -> None:
        self._host = host
        self._channel = channel
        self._clock = clock
        self._jitter = jitter
        self._apply = apply
        self._note_reported = note_reported
        self._own_interval_ms = interval_ms
        self._interval_ms = interval_ms
        self._tries = 0
        self._is_heard = False

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            try:
                await self._hold_stream()
            except grpc.aio.AioRpcError as error:
                level = _log.warning if self._tries == 0 else _log.debug
                level("queen_lost", code=error.code().name, reason=error.details())
            except TimeoutError:
                _log.warning("queen_reads_nothing")
            else:
                _log.info("queen_closed_stream")
            await self._clock.sleep_ms(self._wait_ms())

    async def _hold_stream(self) -> None:
        self._interval_ms = self._own_interval_ms
        # Called without an iterator the stream is written by hand, which the stubs do not know.
        open_call = cast("Callable[[], _Call]", PoolServiceStub(self._channel).Synchronize)
        async with stream(open_call()) as call:
            send = asyncio.create_task(self._send(call), name="report send")
            receive = asyncio.create_task(self._receive(call), name="report receive")
            try:
                await asyncio.wait({send, receive}, return_when=asyncio.FIRST_COMPLETED)
                if send.done():
                    await send
                # A write to a stream that has ended does not say why; reading does.
                await receive
            finally:
                send.cancel()
                receive.cancel()
                await asyncio.gather(send, receive, return_exceptions=True)

    async def _send(self, call: _Call) -> None:
        while True:
            seen = self._host.changes.count
            snapshot = await self._host.snapshot()
            try:
                async with asyncio.timeout(limits.RPC_DEADLINE_MS / 1_000):
                    await call.write(pb.SynchronizeRequest(snapshot=snapshot))
            except asyncio.InvalidStateError:
                return  # the stream has ended
            self._note_reported(_ended(snapshot))
            await self._host.changes.wait_beyond(seen, timeout_ms=self._interval_ms)

    async def _receive(self, call: _Call) -> None:
        async for response in call:
            if not self._is_heard:
                _log.info("queen_found")
            self._is_heard, self._tries = True, 0
            if response.report_interval_ms > 0:
                self._interval_ms = _bounded_interval_ms(response.report_interval_ms)
            self._apply(desired_of(response))

    def _wait_ms(self) -> int:
        """Return how long to wait before the next call: doubled at each failure, and spread."""
        self._is_heard = False
        ceiling_ms = min(limits.RECONNECT_MAX_MS, limits.RECONNECT_MIN_MS << min(self._tries, 16))
        self._tries += 1
        return self._jitter.randint(ceiling_ms // 2, ceiling_ms)


def desired_of(response: pb.SynchronizeResponse) -> Desired:
    """Return what the queen wants, without the entries that this version does not understand."""
    return Desired(
        workers=tuple(
            DesiredWorker(
                worker_id=WorkerId(each.worker_id),
                model=ModelName(each.model),
                device=each.device,
                state=_STATES[each.state],
            )
            for each in response.workers[: limits.WORKERS_PER_POOL_MAX]
            if each.state in _STATES and 0 < len(each.worker_id.encode()) <= limits.ID_BYTES_MAX
        ),
        authoritative=response.authoritative,
    )


def _bounded_interval_ms(wanted_ms: int) -> int:
    return min(limits.REPORT_INTERVAL_MS_MAX, max(limits.REPORT_INTERVAL_MS_MIN, wanted_ms))


def _ended(snapshot: snapshot_pb2.HostSnapshot) -> list[str]:
    failed = engine_pb.WORKER_STATE_FAILED
    return [each.worker_id for each in snapshot.workers if each.state == failed]
