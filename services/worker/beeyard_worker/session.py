"""The worker's one stream to the queen: attach, report, obey, and attach again when it breaks.

Theory of operation. `run` attaches for ever, with a jittered, bounded pause between attempts. On each
stream three tasks work side by side: one reads orders, one writes reports, one makes heartbeats due;
the first that ends takes the others and the stream with it. What must survive the stream is not here
but in `Leases`.

When to write. A report is written as soon as there is something to say, but at most one in
`FLUSH_GAP_MS_MAX`: a slow engine is reported step by step without delay, a fast one is gathered. What
somebody waits for (a job's first token, an answer to an offer, a result) never waits for the gap. Before
writing, the loop turns once, so that all jobs of one engine step travel in one message.

Leases expire by silence. Whatever arrives from the queen renews them; `lease_ttl_ms` after the last word
all decoding stops, stream or no stream, since by then the queen may have given the jobs to others.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Protocol, TypeVar

import grpc
from beeyard.worker.v1 import worker_service_pb2 as pb
from beeyard.worker.v1 import worker_service_pb2_grpc
from beeyard_core import limits
from beeyard_runtime.clock import Clock
from beeyard_runtime.log import get_log
from beeyard_runtime.rpc_channel import stream

from beeyard_worker.leases import Leases
from beeyard_worker.status import WorkerStatus

_log = get_log("session")
ResultT = TypeVar("ResultT")

# A queen that asks for more than this is asked back: it would be all the worker does.
_HEARTBEAT_MS_MIN = 50
_ATTEMPTS_COUNTED_MAX = 16


class AttachCall(Protocol):
    """The part of grpc.aio's stream-stream call that the session uses."""

    async def read(self) -> object:
        """Return the next message, or grpc.aio.EOF."""
        ...

    async def write(self, request: pb.AttachRequest) -> None:
        """Send a message."""
        ...

    def cancel(self) -> bool:
        """End the call."""
        ...


class Session:
    """Keeps the worker attached to its queen."""

    def __init__(
        self,
        *,
        stub: "worker_service_pb2_grpc.WorkerServiceAsyncStub",
        leases: Leases,
        status: WorkerStatus,
        address: str,
        clock: Clock,
        chance: random.Random,
        on_drain: Callable[[int], None],
    ) -> None:
        """Prepare; `run` attaches.

        Args:
            stub: Of the queen's WorkerService.
            leases: What survives the stream.
            status: What the worker holds and does.
            address: HOST:PORT of the worker's own EngineService.
            clock: Paces heartbeats, flushes, pauses and expiry.
            chance: Spreads reconnections of a fleet.
            on_drain: Called with the grace in milliseconds when the queen orders a drain.
        """
        self._stub = stub
        self._leases = leases
        self._status = status
        self._address = address
        self._clock = clock
        self._chance = chance
        self._on_drain = on_drain
        self._ttl_ms = limits.LEASE_TTL_MS
        self._heartbeat_ms = limits.HEARTBEAT_INTERVAL_MS
        self._heard_ms = clock.now().mono_ms
        self._flushed_ms = 0
        self._dirty = asyncio.Event()
        self._at_once = asyncio.Event()
        self._silence = asyncio.Event()
        self._terms_changed = asyncio.Event()
        self._heartbeat_due = False
        leases.listen(self._wake)
        status.watch(self._change)

    async def run(self) -> None:
        """Stay attached until cancelled."""
        await _first_of(self._expire(), self._keep_attached())

    async def _keep_attached(self) -> None:
        attempt = 0
        while True:
            since_ms = self._clock.now().mono_ms
            await self._attach()
            # A stream that breaks at once counts as a failed attempt, welcome or not: two workers
            # that were given one id would otherwise take the stream from each other without pause.
            was_steady = self._clock.now().mono_ms - since_ms > limits.RECONNECT_MAX_MS
            attempt = 0 if was_steady else min(attempt + 1, _ATTEMPTS_COUNTED_MAX)
            await self._clock.sleep_ms(reconnect_pause_ms(attempt, self._chance))

    async def _attach(self) -> None:
        """Hold one stream from hello to break; whatever breaks it is logged and not raised."""
        self._silence.clear()
        try:
            # Without an iterator: the call is written by hand, which the stubs do not know.
            async with stream(self._stub.Attach()) as call:  # type: ignore[call-arg]
                if await self._greet(call):
                    await self._serve(call)
        except grpc.aio.AioRpcError as fault:
            _log.info("stream_broke", code=fault.code().name, detail=fault.details())
        except asyncio.InvalidStateError:
            # Written after the peer had ended the call, before the reader saw it.
            _log.info("stream_ended")
        except TimeoutError:
            _log.warning("no_welcome", waited_ms=limits.RPC_DEADLINE_MS)
        finally:
            self._leases.disconnect()

    async def _greet(self, call: AttachCall) -> bool:
        """Say hello and take the welcome; return whether there was one."""
        hello = pb.Hello(
            status=self._status.to_wire(),
            pool_id=self._status.identity.pool_id,
            address=self._address,
            incarnation=self._status.identity.incarnation,
        )
        for lease in self._leases.held():
            hello.leases.add(**lease._asdict())
        answer = await self._in_time(self._exchange(call, hello))
        if not isinstance(answer, pb.AttachResponse) or not answer.HasField("welcome"):
            _log.warning("no_welcome", waited_ms=0)
            return False
        welcome = answer.welcome
        self._heard_ms = self._clock.now().mono_ms
        self._ttl_ms = welcome.lease_ttl_ms if welcome.lease_ttl_ms > 0 else limits.LEASE_TTL_MS
        self._terms_changed.set()
        self._heartbeat_ms = max(welcome.heartbeat_interval_ms, _HEARTBEAT_MS_MIN)
        self._leases.adopt(welcome.adopted)
        _log.info("attached", queen=welcome.queen_incarnation, adopted=len(welcome.adopted))
        return True

    async def _exchange(self, call: AttachCall, hello: pb.Hello) -> object:
        await call.write(pb.AttachRequest(hello=hello))
        return await call.read()

    async def _serve(self, call: AttachCall) -> None:
        # What gathered while there was no stream goes first.
        self._wake(True)
        await _first_of(
            self._read(call), self._write(call), self._make_heartbeats_due(), self._silence.wait()
        )

    async def _read(self, call: AttachCall) -> None:
        while True:
            answer = await call.read()
            if not isinstance(answer, pb.AttachResponse):
                _log.info("stream_ended")
                return
            self._heard_ms = self._clock.now().mono_ms
            orders = answer.orders
            self._leases.obey(orders)
            if orders.HasField("drain"):
                self._on_drain(orders.drain.grace_ms)

    async def _write(self, call: AttachCall) -> None:
        while True:
            await self._dirty.wait()
            # One turn of the loop: the other jobs of this engine step get their tokens in.
            await self._clock.sleep_ms(0)
            await self._mind_the_gap()
            self._dirty.clear()
            self._at_once.clear()
            request = pb.AttachRequest()
            self._leases.fill(request.report)
            if self._heartbeat_due:
                self._heartbeat_due = False
                self._add_heartbeat(request.report)
            if self._leases.has_unsent:
                # More than one frame of a lease: the rest follows in the next report.
                self._wake(True)
            if request.report.ByteSize():
                await call.write(request)
                self._flushed_ms = self._clock.now().mono_ms

    async def _mind_the_gap(self) -> None:
        if self._at_once.is_set():
            return
        rest_ms = self._flushed_ms + limits.FLUSH_GAP_MS_MAX - self._clock.now().mono_ms
        if rest_ms > 0:
            await _first_of(self._clock.sleep_ms(rest_ms), self._at_once.wait())

    async def _make_heartbeats_due(self) -> None:
        while True:
            await self._clock.sleep_ms(self._heartbeat_ms)
            self._change()

    async def _expire(self) -> None:
        """Stop all decoding whenever the queen was silent for the lease's time to live."""
        counted_from_ms = self._heard_ms
        while True:
            counted_from_ms = max(counted_from_ms, self._heard_ms)
            rest_ms = counted_from_ms + self._ttl_ms - self._clock.now().mono_ms
            if rest_ms > 0:
                # A welcome may shorten the time to live.
                self._terms_changed.clear()
                await _first_of(self._clock.sleep_ms(rest_ms), self._terms_changed.wait())
                continue
            if stopped := self._leases.expire():
                _log.warning("leases_expired", count=stopped, ttl_ms=self._ttl_ms)
            # A stream on which nothing comes for so long is dead, whatever TCP thinks of it.
            self._silence.set()
            counted_from_ms = self._clock.now().mono_ms

    async def _in_time(self, work: Coroutine[object, object, ResultT]) -> ResultT:
        """Return what `work` returns, or raise TimeoutError after the deadline of a call."""
        task = asyncio.ensure_future(work)
        try:
            await _first_of(_settled(task), self._clock.sleep_ms(limits.RPC_DEADLINE_MS))
            if not task.done():
                raise TimeoutError
            return task.result()
        finally:
            await _end(task)

    def _add_heartbeat(self, report: pb.Report) -> None:
        report.heartbeat.status.CopyFrom(self._status.to_wire())
        for lease in self._leases.held():
            report.heartbeat.progress.add(
                lease_id=lease.lease_id, epoch=lease.epoch, next_index=lease.next_index
            )

    def _change(self) -> None:
        self._heartbeat_due = True
        self._wake(True)

    def _wake(self, at_once: bool) -> None:  # noqa: FBT001 - called for each engine step
        self._dirty.set()
        if at_once:
            self._at_once.set()


def reconnect_pause_ms(attempt: int, chance: random.Random) -> int:
    """Return how long to wait before attaching again, in milliseconds.

    Args:
        attempt: Attempts since the last welcome.
        chance: Halves the pause at most, so that a fleet does not come back in step.
    """
    pause_ms = min(limits.RECONNECT_MIN_MS << attempt, limits.RECONNECT_MAX_MS)
    return int(pause_ms * (1 + chance.random()) / 2)


async def _first_of(*works: Awaitable[object]) -> None:
    """Run until the first ends, end the others, and raise what the first raised.

    A call that was cancelled on this side ends its reader by CancelledError; that is an end like any
    other here, and not a wish that this task should end.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _end(*tasks)
    for task in done:
        if not task.cancelled() and (fault := task.exception()) is not None:
            raise fault


async def _settled(task: "asyncio.Future[ResultT]") -> None:
    await asyncio.wait([task])


async def _end(*tasks: "asyncio.Future[ResultT]") -> None:
    """Cancel tasks and wait for their ends; what they raise is for who reads them."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            # Looked at, so that asyncio does not call it forgotten.
            task.exception()
