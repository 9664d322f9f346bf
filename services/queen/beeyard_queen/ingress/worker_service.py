"""Hosts `WorkerService.Attach`: one stream for each worker, read here and written from its link.

Streams are written with `context.write`, which is why their methods return nothing; the generated base class only knows
generators.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TypeAlias

import grpc
from beeyard.worker.v1 import worker_service_pb2 as pb
from beeyard.worker.v1 import worker_service_pb2_grpc
from beeyard_core.event import (
    Event,
    LeaseClaim,
    WorkerAttached,
    WorkerDetached,
    WorkerReported,
)
from beeyard_core.ids import WorkerId
from beeyard_core.refusal import Refusal, Refused
from beeyard_runtime.log import get_log
from beeyard_runtime.rpc_errors import RpcRefusal, refuse

from beeyard_queen.egress.links import Links, WorkerLink
from beeyard_queen.egress.relay import Relay
from beeyard_queen.ingress.identity import HomeOf, check_worker
from beeyard_queen.ingress.opening import converse, first_message
from beeyard_queen.ingress.worker_wire import check_hello, claims_of, report_of

_log = get_log("worker_service")

Context: TypeAlias = "grpc.aio.ServicerContext[pb.AttachRequest, pb.AttachResponse]"


@dataclass(slots=True)
class _Identity:
    """What the hello says once and heartbeats do not repeat."""

    pool_id: str
    address: str


class WorkerServicer(worker_service_pb2_grpc.WorkerServiceServicer):
    """Every worker's stream."""

    def __init__(
        self, links: Links, relay: Relay, post: Callable[[Event], None], home_of: HomeOf
    ) -> None:
        """Serve workers.

        Args:
            links: Where orders for workers gather.
            relay: Takes what workers report.
            post: Hands an event to the writer loop.
            home_of: Knows the pools of workers.
        """
        self._home_of = home_of
        self._links = links
        self._relay = relay
        self._post = post

    async def Attach(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterator[pb.AttachRequest], context: Context
    ) -> None:
        """Serve one worker until its stream ends."""
        hello = await self._hello(request_iterator)
        worker_id = WorkerId(hello.status.worker_id)
        check_worker(worker_id, hello.pool_id, self._home_of)
        link = self._links.open(worker_id)
        identity = _Identity(hello.pool_id, hello.address)
        log = _log.bind(worker_id=worker_id, session=link.session)
        self._post(
            WorkerAttached(
                session=link.session,
                report=report_of(hello.status, identity.pool_id, identity.address),
                incarnation=hello.incarnation,
                claims=self._claims(hello),
            )
        )
        log.info("worker_attached", model=hello.status.model, claims=len(hello.leases))
        try:
            await self._serve(link, identity, request_iterator, context)
        finally:
            self._links.drop(link)
            self._post(WorkerDetached(worker_id, link.session))
            log.info("worker_detached")

    def _claims(self, hello: pb.Hello) -> tuple[LeaseClaim, ...]:
        """Return the claims that can go on: the worker still has every token that the queen misses."""
        first_kept = {held.lease_id: held.first_kept_index for held in hello.leases}
        return tuple(
            claim
            for claim in claims_of(hello)
            if first_kept[claim.lease_id] <= self._relay.next_index(claim.lease_id)
        )

    async def _hello(self, requests: AsyncIterator[pb.AttachRequest]) -> pb.Hello:
        first = await first_message(requests)
        if first is None or first.WhichOneof("message") != "hello":
            raise refuse(Refusal.INVALID_REQUEST, "the first message must be hello", field="hello")
        check_hello(first.hello)
        return first.hello

    async def _serve(
        self,
        link: WorkerLink,
        identity: _Identity,
        requests: AsyncIterator[pb.AttachRequest],
        context: Context,
    ) -> None:
        welcome = await link.welcome
        if isinstance(welcome, Refused):
            raise RpcRefusal(welcome)
        if welcome is None:
            return
        await context.write(pb.AttachResponse(welcome=welcome))
        await converse(
            self._read(link, identity, requests), _write(link, context), link.end_quietly
        )
        if link.closed is not None:
            raise RpcRefusal(link.closed)

    async def _read(
        self, link: WorkerLink, identity: _Identity, requests: AsyncIterator[pb.AttachRequest]
    ) -> None:
        async for request in requests:
            if request.WhichOneof("message") != "report":
                message = "only reports may follow the hello"
                raise refuse(Refusal.INVALID_REQUEST, message, field="hello")
            report = request.report
            self._relay.take(link, report)
            if report.HasField("heartbeat"):
                self._heartbeat(link, identity, report.heartbeat)

    def _heartbeat(self, link: WorkerLink, identity: _Identity, beat: pb.Heartbeat) -> None:
        if beat.status.worker_id != link.worker_id:
            message = "a stream speaks for one worker only"
            raise refuse(
                Refusal.INVALID_REQUEST, message, field="report.heartbeat.status.worker_id"
            )
        report = report_of(beat.status, identity.pool_id, identity.address)
        self._post(WorkerReported(session=link.session, report=report))
        link.greet()


async def _write(link: WorkerLink, context: Context) -> None:
    while (orders := await link.orders()) is not None:
        await context.write(pb.AttachResponse(orders=orders))
