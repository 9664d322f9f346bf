"""Hosts `LeaseService`: heavy work that is not inference, run by anybody's process under a lease."""

import secrets
from typing import TypeAlias

import grpc
from beeyard.queen.v1 import lease_service_pb2 as pb
from beeyard.queen.v1 import lease_service_pb2_grpc
from beeyard_core import limits
from beeyard_core.ids import (
    Epoch,
    LeaseId,
    PoolId,
    TenantId,
    WorkerId,
    WorkId,
    epoch_of,
    lease_id_of,
)
from beeyard_core.leasing import no_such_lease, no_such_work
from beeyard_core.refusal import Refusal
from beeyard_core.work import Work
from beeyard_core.work_admission import request_conflict
from beeyard_core.work_ask import (
    Claim,
    Completion,
    Denied,
    Failure,
    Granted,
    Heartbeat,
    LeaseWanted,
    Progress,
    Renewed,
    Revocation,
    Submission,
    Told,
    Withdrawal,
    WorkAsk,
)
from beeyard_runtime.clock import Clock
from beeyard_runtime.rpc_errors import RpcRefusal, refuse
from beeyard_runtime.security.callers import current
from google.protobuf.message import Message

from beeyard_queen.ingress.overload import refuse_overload
from beeyard_queen.ingress.paging import number_of, page_size_of, token_of
from beeyard_queen.ingress.request import refuse_unknown_fields
from beeyard_queen.ingress.work_looking import WorkLooking
from beeyard_queen.ingress.work_request import (
    ClaimSchema,
    FailureSchema,
    LeaseSchema,
    ProgressSchema,
    RevocationSchema,
    WorkNameSchema,
    WorkSchema,
    check,
    check_body,
)
from beeyard_queen.ingress.work_wire import (
    WORK_STATES,
    capacity_of,
    wire_denied_of,
    wire_lease_of,
    wire_work_of,
    work_digest_of,
    work_spec_of,
)
from beeyard_queen.loop import WriterLoop
from beeyard_queen.store.work import WorkFilter
from beeyard_queen.work_calls import WorkCalls

Context: TypeAlias = "grpc.aio.ServicerContext[Message, Message]"


class LeaseServicer(lease_service_pb2_grpc.LeaseServiceServicer):
    """Heavy work for anybody."""

    def __init__(
        self, *, loop: WriterLoop, calls: WorkCalls, looking: WorkLooking, clock: Clock
    ) -> None:
        """Serve heavy work over the parts that the composition root made."""
        self._loop = loop
        self._calls = calls
        self._looking = looking
        self._clock = clock

    # --- Work ---

    async def SubmitWork(self, request: pb.SubmitWorkRequest, context: Context) -> pb.Work:  # noqa: N802 - the wire's
        """Queue a piece of work; return once it is durable."""
        schema = check(WorkSchema, request)
        payload = check_body(request.payload, "payload")
        self._refuse_crowd()
        spec = work_spec_of(schema)
        digest = work_digest_of(request) if schema.request_id else b""
        if schema.request_id:
            earlier = await self._looking.ended_by_request(spec.tenant_id, schema.request_id)
            if earlier is not None and earlier.digest != digest:
                raise RpcRefusal(request_conflict())
            if earlier is not None:
                return wire_work_of(earlier, self._clock.now())
        work_id = WorkId(f"work-{secrets.token_hex(16)}")
        if payload:
            self._calls.payloads[work_id] = payload
        submission = Submission(
            work_id=work_id, spec=spec, request_id=schema.request_id, digest=digest
        )
        return await self._told(submission)

    async def GetWork(self, request: pb.GetWorkRequest, context: Context) -> pb.Work:  # noqa: N802
        """Return one piece of work, with its result."""
        schema = check(WorkNameSchema, request)
        return await self._wire_work(WorkId(schema.work_id))

    async def ListWork(  # noqa: N802
        self, request: pb.ListWorkRequest, context: Context
    ) -> pb.ListWorkResponse:
        """List work, newest first."""
        refuse_unknown_fields(request)
        size = page_size_of(request.page_size)
        found = await self._looking.works(
            WorkFilter(
                states=tuple(_state_of(number) for number in request.states if number),
                tenant_id=request.tenant_id,
                kind=request.kind,
                before_sequence=number_of(request.page_token),
                limit=size + 1,
            )
        )
        more = token_of(found[size - 1].sequence) if len(found) > size else ""
        now = self._clock.now()
        listed = [wire_work_of(work, now) for work in found[:size]]
        return pb.ListWorkResponse(work=listed, next_page_token=more)

    async def CancelWork(self, request: pb.CancelWorkRequest, context: Context) -> pb.Work:  # noqa: N802
        """Make sure that a piece of work does not run; what has ended stays as it is."""
        schema = check(WorkNameSchema, request)
        work_id = WorkId(schema.work_id)
        if current().tenant_id is not None:
            # Looked at before anything is done to it: what is another tenant's is not there.
            await self._wire_work(work_id)
        if await self._looking.ended(work_id) is not None:
            return await self._wire_work(work_id)
        reason = f"cancelled: {schema.reason}" if schema.reason else "cancelled"
        return await self._told(Withdrawal(work_id, reason))

    # --- Leases ---

    async def RequestLease(  # noqa: N802
        self, request: pb.RequestLeaseRequest, context: Context
    ) -> pb.RequestLeaseResponse:
        """Lease the most urgent work that fits, or say when to ask again."""
        schema = check(LeaseSchema, request)
        self._refuse_crowd()
        call = current()
        pool_id = schema.pool_id or call.pool_id
        if call.pool_id and pool_id != call.pool_id:
            message = f"this token or certificate is of the pool {call.pool_id}"
            raise refuse(Refusal.PERMISSION_DENIED, message, field="pool_id")
        wanted = LeaseWanted(
            holder=WorkerId(schema.worker_id),
            pool_id=PoolId(pool_id) if pool_id else None,
            tenant_id=TenantId(call.tenant_id) if call.tenant_id is not None else None,
            kinds=frozenset(schema.kinds),
            units_max=schema.capacity_units_max,
            work_id=WorkId(schema.work_id) if schema.work_id else None,
            request_id=schema.request_id,
        )
        answer = await self._calls.ask(wanted)
        if isinstance(answer, Denied):
            return pb.RequestLeaseResponse(denied=wire_denied_of(answer))
        assert isinstance(answer, Granted), "whoever asks for a lease gets one, or a reason"
        lease, now = answer.lease, self._clock.now()
        work = await self._looking.work(lease.work_id)
        bodies = await self._looking.bodies(lease.work_id)
        return pb.RequestLeaseResponse(
            granted=pb.LeaseGranted(
                lease=wire_lease_of(lease, now),
                work=wire_work_of(work, now, payload=bodies.payload),
            )
        )

    async def Heartbeat(  # noqa: N802
        self, request: pb.HeartbeatRequest, context: Context
    ) -> pb.HeartbeatResponse:
        """Let a lease live on."""
        claim = self._own(check(ClaimSchema, request).claim)
        return pb.HeartbeatResponse(lease=await self._renewed(Heartbeat(claim)))

    async def ReportProgress(  # noqa: N802
        self, request: pb.ReportProgressRequest, context: Context
    ) -> pb.ReportProgressResponse:
        """Take in how far the work is."""
        schema = check(ProgressSchema, request)
        progress = Progress(
            self._own(schema.claim), schema.progress, schema.message, schema.measurements
        )
        return pb.ReportProgressResponse(lease=await self._renewed(progress))

    async def ReleaseLease(self, request: pb.ReleaseLeaseRequest, context: Context) -> pb.Work:  # noqa: N802
        """End a lease by its holder's word."""
        claim = self._own(check(ClaimSchema, request).claim)
        outcome = request.WhichOneof("outcome")
        if outcome is None:
            message = "say how it ended: completed or failed"
            raise refuse(Refusal.INVALID_REQUEST, message, field="outcome")
        ask: WorkAsk
        if outcome == "failed":
            failed = check(FailureSchema, request.failed, path="failed")
            message = failed.message or "its holder gave no reason"
            ask = Failure(claim, message, is_retriable=failed.retriable)
        else:
            result = check_body(request.completed.result, "completed.result")
            if result:
                self._calls.results[claim.lease_id] = result
            ask = Completion(claim)
        try:
            return await self._told(ask)
        except RpcRefusal as refusal:
            # The answer to the first release may have been lost with the queen that gave it.
            if refusal.refused.reason is Refusal.STALE_EPOCH:
                earlier = await self._looking.by_epoch(claim.epoch)
                is_its = claim.lease_id == lease_id_of(claim.epoch)
                if earlier is not None and earlier.is_released and is_its:
                    return await self._wire_work(earlier.work_id)
            raise

    async def RevokeLease(self, request: pb.RevokeLeaseRequest, context: Context) -> pb.Work:  # noqa: N802
        """Take a lease away."""
        schema = check(RevocationSchema, request)
        lease_id = LeaseId(schema.lease_id)
        revocation = Revocation(
            lease_id, Epoch(schema.epoch), schema.reason, is_requeued=schema.requeue
        )
        try:
            return await self._told(revocation)
        except RpcRefusal as refusal:
            # What ended before this queen began is in the store only.
            if refusal.refused.reason is Refusal.LEASE_NOT_FOUND:
                earlier = await self._looking.by_epoch(epoch_of(lease_id))
                if earlier is not None:
                    return await self._wire_work(earlier.work_id)
            raise

    async def GetCapacity(  # noqa: N802
        self, request: pb.GetCapacityRequest, context: Context
    ) -> pb.Capacity:
        """Tell how many units there are, how many are leased, and why."""
        refuse_unknown_fields(request)
        return capacity_of(self._loop.state, self._clock.now())

    # --- Within ---

    def _refuse_crowd(self) -> None:
        """Turn new callers away while too many wait; whoever holds a lease is always heard."""
        refuse_overload(self._loop)
        if self._calls.is_full:
            message = f"{limits.WORK_CALLS_MAX} callers wait already; ask again in a moment"
            raise refuse(
                Refusal.QUEUE_FULL_REJECT,
                message,
                retry_after_ms=limits.WORK_RETRY_MS,
                metadata={"policy_label": "reject"},
            )

    def _own(self, claim: Claim) -> Claim:
        """Return a claim if the caller may speak of it: a lease for another tenant's work is not there.

        Raises:
            RpcRefusal: LEASE_NOT_FOUND.
        """
        yard, call = self._loop.state.work, current()
        work_id = yard.last_leases.get(claim.lease_id)
        if work_id is not None and not call.owns(yard.works[work_id].spec.tenant_id):
            raise RpcRefusal(no_such_lease())
        return claim

    async def _told(self, ask: WorkAsk) -> pb.Work:
        answer = await self._calls.ask(ask)
        assert isinstance(answer, Told), "this is answered with a piece of work"
        return await self._wire_work(answer.work_id)

    async def _renewed(self, ask: WorkAsk) -> pb.Lease:
        answer = await self._calls.ask(ask)
        assert isinstance(answer, Renewed), "this is answered with a lease"
        return wire_lease_of(answer.lease, self._clock.now())

    async def _wire_work(self, work_id: WorkId) -> pb.Work:
        """Return a piece of work with its result; its payload is for its holder only."""
        work: Work | None = await self._looking.find(work_id)
        if work is None or not current().owns(work.spec.tenant_id):
            raise RpcRefusal(no_such_work())
        result = (await self._looking.bodies(work_id)).result if work.is_ended else b""
        return wire_work_of(work, self._clock.now(), result=result)


def _state_of(number: "pb.WorkState.ValueType") -> str:
    state = WORK_STATES.get(number)
    if state is None:
        raise refuse(
            Refusal.INVALID_REQUEST, "states: there is no such state of work", field="states"
        )
    return state.value
