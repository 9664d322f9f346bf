"""A worker that does exactly what a test says, over real gRPC, and remembers what the queen told it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import grpc
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard.worker.v1 import generation_pb2
from beeyard.worker.v1 import worker_service_pb2 as pb
from beeyard.worker.v1 import worker_service_pb2_grpc as rpc

PATIENCE_S = 10.0


def status_of(
    worker_id: str = "w1", *, model: str = "tiny", slots: int = 2, **changes: object
) -> engine_pb.EngineStatus:
    """Return what a ready worker says of itself."""
    status = engine_pb.EngineStatus(
        worker_id=worker_id,
        model=model,
        engine="synthetic",
        state=engine_pb.WORKER_STATE_READY,
        slots_total=slots,
        slots_free=slots,
        kv_tokens_total=1 << 20,
        context_tokens=8_192,
        deterministic=True,
        token_ids=True,
        device="cpu",
    )
    for name, value in changes.items():
        setattr(status, name, value)
    return status


def hello_of(
    status: engine_pb.EngineStatus, leases: Sequence[pb.HeldLease] = (), *, pool_id: str = "none"
) -> pb.AttachRequest:
    """Return a hello."""
    return pb.AttachRequest(
        hello=pb.Hello(
            status=status,
            pool_id=pool_id,
            address="127.0.0.1:1",
            incarnation="scripted",
            leases=leases,
        )
    )


def held(epoch: int, next_index: int, first_kept_index: int = 0) -> pb.HeldLease:
    """Return the claim to lease-EPOCH."""
    return pb.HeldLease(
        lease_id=f"lease-{epoch}",
        epoch=epoch,
        next_index=next_index,
        first_kept_index=first_kept_index,
    )


class AttachedWorker:
    """One stream to the queen, from hello to end.

    Attributes:
        welcome: The queen's answer to the hello.
        orders: Everything that it ordered so far.
        orders_count: Messages in which the orders came.
        error: How the stream ended, if by an error.
    """

    def __init__(self, channel: grpc.aio.Channel, status: engine_pb.EngineStatus) -> None:
        self.status = status
        self.welcome = pb.Welcome()
        self.orders = pb.Orders()
        self.orders_count = 0
        self.error: grpc.aio.AioRpcError | None = None
        # Without an iterator: the call is written by hand, which the stubs do not know.
        self._call = rpc.WorkerServiceStub(channel).Attach()  # type: ignore[call-arg]
        self._changed = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        self.has_ended = False

    async def attach(self, leases: Sequence[pb.HeldLease] = (), *, pool_id: str = "none") -> None:
        """Say hello and return when welcome."""
        await self.send(hello_of(self.status, leases, pool_id=pool_id))
        async with asyncio.timeout(PATIENCE_S):
            answer = await self._call.read()
        assert isinstance(answer, pb.AttachResponse), "the queen ended the stream"
        self.welcome = answer.welcome
        self._listening = asyncio.create_task(self._listen())

    async def send(self, request: pb.AttachRequest) -> None:
        """Send a message."""
        await self._call.write(request)

    async def report(self, **parts: object) -> None:
        """Send a report made of these parts."""
        await self.send(pb.AttachRequest(report=pb.Report(**parts)))  # type: ignore[arg-type]

    async def heartbeat(self) -> None:
        """Say that it lives."""
        await self.report(heartbeat=pb.Heartbeat(status=self.status))

    async def beat(self) -> None:
        """Say that it lives, and return when the queen has taken that in: its time may go on."""
        before = self.orders_count
        await self.heartbeat()
        await self.until(lambda _: self.orders_count > before, "an answer")

    async def offer(self, count: int = 1) -> pb.LeaseOffer:
        """Return the offer number `count`, when it comes."""
        await self.until(lambda orders: len(orders.offers) >= count, f"offer {count}")
        return self.orders.offers[count - 1]

    async def accept(self, offer: pb.LeaseOffer) -> None:
        """Take an offer."""
        await self.report(replies=[_reply(offer, accepted=True)])

    async def refuse(self, offer: pb.LeaseOffer, reason: str = "WORKER_BUSY") -> None:
        """Do not take an offer."""
        await self.report(replies=[_reply(offer, accepted=False, reason=reason)])

    async def tokens(self, offer: pb.LeaseOffer, first_index: int, *words: str) -> None:
        """Send tokens of a lease; each id is its index plus 1000."""
        await self.report(frames=[frame_of(offer.epoch, first_index, *words)])

    async def finish(self, offer: pb.LeaseOffer, next_index: int) -> None:
        """Say that a generation ended by itself."""
        await self.report(results=[finished_of(offer.epoch, next_index)])

    async def serve(self, offer: pb.LeaseOffer, *words: str) -> None:
        """Do a whole job in one report: accept it, send the words, finish."""
        first = offer.request.resume_count
        frames = [frame_of(offer.epoch, first, *words)] if words else []
        await self.report(
            replies=[_reply(offer, accepted=True)],
            frames=frames,
            results=[finished_of(offer.epoch, first + len(words))],
        )

    async def changed(self) -> None:
        """Return once the queen has said something more, or ended the stream; with an error if it had before."""
        assert not self.has_ended, f"the stream ended: {self.error}"
        self._changed.clear()
        await self._changed.wait()

    async def until(self, holds: Callable[[pb.Orders], object], what: str) -> None:
        """Return once the orders so far meet the condition."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not holds(self.orders):
                    assert not self.has_ended, f"the stream ended before: {what}: {self.error}"
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"never ordered: {what}; so far: {self.orders}") from None

    async def over(self, epoch: int) -> None:
        """Return once the queen says that lease-EPOCH is over."""
        await self.until(
            lambda orders: any(
                a.epoch == epoch and a.result_committed for a in orders.acknowledgements
            ),
            f"lease {epoch} is over",
        )

    async def ended(self) -> None:
        """Return once the queen has ended the stream."""
        assert self._listening is not None
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.shield(self._listening)

    async def hang_up(self) -> None:
        """Break the stream. Idempotent."""
        self._call.cancel()
        if self._listening is not None:
            await asyncio.wait([self._listening])

    async def _listen(self) -> None:
        try:
            while isinstance(answer := await self._call.read(), pb.AttachResponse):
                self.orders.MergeFrom(answer.orders)
                self.orders_count += 1
                self._changed.set()
        except grpc.aio.AioRpcError as error:
            self.error = error
        except asyncio.CancelledError:
            # The call was cancelled on this side; the task itself never is.
            pass
        finally:
            self.has_ended = True
            self._changed.set()


def frame_of(epoch: int, first_index: int, *words: str) -> pb.TokenFrame:
    """Return these words as tokens of lease-EPOCH; each id is its index plus 1000."""
    return pb.TokenFrame(
        lease_id=f"lease-{epoch}",
        epoch=epoch,
        first_index=first_index,
        ids=range(1_000 + first_index, 1_000 + first_index + len(words)),
        text="".join(words),
        text_lengths=map(len, words),
    )


def finished_of(epoch: int, next_index: int) -> pb.LeaseResult:
    """Return the result of a generation that ended by itself."""
    generation = engine_pb.GenerationFinished(
        reason=generation_pb2.FINISH_REASON_LENGTH,
        usage=generation_pb2.Usage(prompt_tokens=3, completion_tokens=next_index),
        timings=generation_pb2.Timings(prefill_ms=1.0, decode_ms=2.0),
    )
    return pb.LeaseResult(
        lease_id=f"lease-{epoch}",
        epoch=epoch,
        finished=pb.LeaseFinished(next_index=next_index, generation=generation),
    )


def failed_of(epoch: int, reason: str = "WORKER_ERROR") -> pb.LeaseResult:
    """Return the result of a generation that broke."""
    failed = pb.LeaseFailed(reason=reason, message="as the test wants it")
    return pb.LeaseResult(lease_id=f"lease-{epoch}", epoch=epoch, failed=failed)


def stopped_of(epoch: int) -> pb.LeaseResult:
    """Return the result of a generation that was stopped."""
    return pb.LeaseResult(lease_id=f"lease-{epoch}", epoch=epoch, stopped=pb.LeaseStopped())


def _reply(offer: pb.LeaseOffer, *, accepted: bool, reason: str = "") -> pb.OfferReply:
    return pb.OfferReply(
        lease_id=offer.lease_id, epoch=offer.epoch, accepted=accepted, reason=reason
    )


@asynccontextmanager
async def attached_worker(
    channel: grpc.aio.Channel,
    worker_id: str = "w1",
    *,
    leases: Sequence[pb.HeldLease] = (),
    pool_id: str = "none",
    **changes: object,
) -> AsyncIterator[AttachedWorker]:
    """Attach a worker until the block ends."""
    worker = AttachedWorker(channel, status_of(worker_id, **changes))  # type: ignore[arg-type]
    try:
        await worker.attach(leases, pool_id=pool_id)
        yield worker
    finally:
        await worker.hang_up()
