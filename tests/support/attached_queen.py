"""A queen that does exactly what a test says, over real gRPC, and remembers what a worker told it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import grpc
from beeyard.worker.v1 import worker_service_pb2 as pb
from beeyard.worker.v1 import worker_service_pb2_grpc
from beeyard_core.outbox import HeldLease

# A guard against a test that hangs; nothing waits for it to pass.
_PATIENCE_S = 20.0


class Attachment:
    """One stream of a worker, from its hello on."""

    def __init__(self, context: grpc.aio.ServicerContext, hello: pb.Hello) -> None:  # type: ignore[type-arg]
        """Begin with the hello."""
        self.hello = hello
        self.reports: list[pb.Report] = []
        self.broken = asyncio.Event()
        self._context = context
        self._changed = asyncio.Event()

    async def until_broken(self) -> None:
        """Return once the test has broken the stream."""
        await self.broken.wait()

    def take(self, report: pb.Report) -> None:
        """Remember a report."""
        self.reports.append(report)
        self._changed.set()

    async def welcome(
        self,
        adopted: list[HeldLease] | None = None,
        *,
        heartbeat_interval_ms: int = 1_000,
        lease_ttl_ms: int = 10_000,
    ) -> None:
        """Answer the hello; `next_index` of the adopted leases is where they are to be resent from."""
        welcome = pb.Welcome(
            queen_incarnation="scripted",
            heartbeat_interval_ms=heartbeat_interval_ms,
            lease_ttl_ms=lease_ttl_ms,
        )
        for lease in adopted or []:
            welcome.adopted.add(
                lease_id=lease.lease_id, epoch=lease.epoch, resend_from=lease.next_index
            )
        await self._context.write(pb.AttachResponse(welcome=welcome))

    async def order(self, orders: pb.Orders) -> None:
        """Send orders."""
        await self._context.write(pb.AttachResponse(orders=orders))

    async def offer(self, epoch: int, prompt: str, **request: object) -> None:
        """Offer lease-EPOCH."""
        offer = pb.LeaseOffer(lease_id=f"lease-{epoch}", epoch=epoch, job_id=f"job-{epoch}")
        offer.attempt = 1
        offer.request.prompt = prompt
        offer.request.max_tokens = 8
        for field, value in request.items():
            if isinstance(value, list):
                getattr(offer.request, field).extend(value)
            else:
                setattr(offer.request, field, value)
        await self.order(pb.Orders(offers=[offer]))

    async def acknowledge(self, epoch: int, next_index: int, *, committed: bool = False) -> None:
        """Acknowledge tokens, or the result, of lease-EPOCH."""
        ack = pb.TokenAcknowledgement(
            lease_id=f"lease-{epoch}",
            epoch=epoch,
            next_index=next_index,
            result_committed=committed,
        )
        await self.order(pb.Orders(acknowledgements=[ack]))

    async def revoke(self, epoch: int) -> None:
        """Take lease-EPOCH back."""
        revocation = pb.LeaseRevocation(lease_id=f"lease-{epoch}", epoch=epoch)
        await self.order(pb.Orders(revocations=[revocation]))

    async def until(self, is_met: Callable[["Attachment"], object]) -> None:
        """Return once the reports so far meet the condition."""
        async with asyncio.timeout(_PATIENCE_S):
            while not is_met(self):
                self._changed.clear()
                await self._changed.wait()

    def frames(self, epoch: int) -> list[pb.TokenFrame]:
        """Return the frames of lease-EPOCH so far."""
        return [frame for r in self.reports for frame in r.frames if frame.epoch == epoch]

    def ids(self, epoch: int) -> list[int]:
        """Return the token ids of lease-EPOCH so far, as they came."""
        return [token for frame in self.frames(epoch) for token in frame.ids]

    def results(self, epoch: int) -> list[pb.LeaseResult]:
        """Return the results of lease-EPOCH so far."""
        return [result for r in self.reports for result in r.results if result.epoch == epoch]

    def replies(self, epoch: int) -> list[pb.OfferReply]:
        """Return the answers to the offer of lease-EPOCH so far."""
        return [reply for r in self.reports for reply in r.replies if reply.epoch == epoch]

    def heartbeats(self) -> list[pb.Heartbeat]:
        """Return the heartbeats so far."""
        return [r.heartbeat for r in self.reports if r.HasField("heartbeat")]


class AttachedQueen(worker_service_pb2_grpc.WorkerServiceServicer):
    """Takes attachments and hands them to the test."""

    def __init__(self) -> None:
        """Start with none."""
        self._arrivals: asyncio.Queue[Attachment] = asyncio.Queue(maxsize=64)

    async def attachment(self) -> Attachment:
        """Return the next stream whose hello came."""
        async with asyncio.timeout(_PATIENCE_S):
            return await self._arrivals.get()

    async def Attach(  # type: ignore[override]  # noqa: N802 - the name in the contract
        self,
        request_iterator: object,
        context: grpc.aio.ServicerContext,  # type: ignore[type-arg]
    ) -> None:
        """Remember what comes until the test breaks the stream or the worker ends it."""
        del request_iterator
        first = await context.read()
        if not isinstance(first, pb.AttachRequest):
            return
        attachment = Attachment(context, first.hello)
        await self._arrivals.put(attachment)
        async with (
            _cancelled_on_exit(self._listen(attachment, context)) as listening,
            _cancelled_on_exit(attachment.until_broken()) as broken,
        ):
            await asyncio.wait([broken, listening], return_when=asyncio.FIRST_COMPLETED)

    async def _listen(
        self,
        attachment: Attachment,
        context: grpc.aio.ServicerContext,  # type: ignore[type-arg]
    ) -> None:
        while isinstance(message := await context.read(), pb.AttachRequest):
            attachment.take(message.report)


@asynccontextmanager
async def _cancelled_on_exit(
    work: Coroutine[object, object, None],
) -> AsyncIterator["asyncio.Future[None]"]:
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
