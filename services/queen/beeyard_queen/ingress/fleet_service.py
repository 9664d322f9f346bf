"""Hosts `FleetService`: what there is, and what should be.

Streams are written with `context.write`, which is why their methods return nothing; the generated base class only knows
generators.
"""

import asyncio
from collections.abc import Callable
from typing import TypeAlias

import grpc
from beeyard.queen.v1 import fleet_service_pb2 as pb
from beeyard.queen.v1 import fleet_service_pb2_grpc
from beeyard_core import limits
from beeyard_core.effect import AnswerCall
from beeyard_core.event import (
    Event,
    ModelScaleRequested,
    WorkerStartRequested,
    WorkerStopRequested,
)
from beeyard_core.ids import ModelName, PoolId, WorkerId
from beeyard_core.refusal import Refusal
from beeyard_core.state import QueenState
from beeyard_runtime.clock import Clock
from beeyard_runtime.rpc_errors import RpcRefusal, refuse
from google.protobuf.message import Message

from beeyard_queen.actor import Answers
from beeyard_queen.egress.hosts import Hosts
from beeyard_queen.ingress.fleet_wire import models_of, pools_of, tenants_of, workers_of
from beeyard_queen.ingress.request import refuse_unknown_fields
from beeyard_queen.ingress.scale_wire import model_scales_of, scale_of

Context: TypeAlias = "grpc.aio.ServicerContext[Message, Message]"


class FleetServicer(fleet_service_pb2_grpc.FleetServiceServicer):
    """The fleet, for clients and operators."""

    def __init__(
        self,
        *,
        state: QueenState,
        hosts: Hosts,
        answers: Answers,
        clock: Clock,
        post: Callable[[Event], None],
        stale_writes: Callable[[], int],
    ) -> None:
        """Serve the fleet.

        Args:
            state: Read here, never written.
            hosts: What the hosts said last.
            answers: Where the writer loop answers operators.
            clock: The time.
            post: Hands an event to the writer loop.
            stale_writes: Returns how much was refused for a stale epoch.
        """
        self._stale_writes = stale_writes
        self._state = state
        self._hosts = hosts
        self._answers = answers
        self._clock = clock
        self._post = post

    async def ListPools(  # noqa: N802 - the wire's name
        self, request: pb.ListPoolsRequest, context: Context
    ) -> pb.ListPoolsResponse:
        """List the hosts."""
        refuse_unknown_fields(request)
        now_ms = self._clock.now().mono_ms
        return pb.ListPoolsResponse(pools=pools_of(self._state, self._hosts, now_ms))

    async def ListWorkers(  # noqa: N802
        self, request: pb.ListWorkersRequest, context: Context
    ) -> pb.ListWorkersResponse:
        """List the workers."""
        refuse_unknown_fields(request)
        return pb.ListWorkersResponse(
            workers=[
                worker
                for worker in workers_of(self._state, self._hosts)
                if request.pool_id in ("", worker.pool_id)
                and request.model in ("", worker.status.model)
            ]
        )

    async def ListModels(  # noqa: N802
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        """List the models."""
        refuse_unknown_fields(request)
        return pb.ListModelsResponse(models=models_of(self._state, self._hosts))

    async def WatchFleet(self, request: pb.WatchFleetRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        """Send the fleet at once, and again after each change."""
        refuse_unknown_fields(request)
        interval_ms = request.min_interval_ms or limits.FLEET_INTERVAL_DEFAULT_MS
        if not limits.FLEET_INTERVAL_MIN_MS <= interval_ms <= limits.FLEET_INTERVAL_MAX_MS:
            message = (
                f"min_interval_ms must be {limits.FLEET_INTERVAL_MIN_MS} to "
                f"{limits.FLEET_INTERVAL_MAX_MS}, or 0 for {limits.FLEET_INTERVAL_DEFAULT_MS}"
            )
            raise refuse(Refusal.INVALID_REQUEST, message, field="min_interval_ms")
        shown = -1
        while True:
            version = self._state.fleet.version
            if version != shown:
                await context.write(self._snapshot(version))
                shown = version
            await self._clock.sleep_ms(interval_ms)

    def _snapshot(self, version: int) -> pb.FleetSnapshot:
        now_ms = self._clock.now().mono_ms
        return pb.FleetSnapshot(
            version=version,
            pools=pools_of(self._state, self._hosts, now_ms),
            workers=workers_of(self._state, self._hosts),
            jobs_queued=len(self._state.queue),
            jobs_running=len(self._state.leases),
            stale_epoch_writes=self._stale_writes(),
        )

    async def StartWorker(  # noqa: N802
        self, request: pb.StartWorkerRequest, context: Context
    ) -> pb.StartWorkerResponse:
        """Wish for one more worker of a model."""
        refuse_unknown_fields(request)
        if not request.model:
            raise refuse(Refusal.INVALID_REQUEST, "model must not be empty", field="model")
        answer = await self._ask(
            lambda call_id: WorkerStartRequested(
                call_id=call_id,
                model=ModelName(request.model),
                pool_id=PoolId(request.pool_id) if request.pool_id else None,
                request_id=request.request_id,
            )
        )
        return pb.StartWorkerResponse(
            worker_id=answer.worker_id or "", pool_id=answer.pool_id or ""
        )

    async def StopWorker(  # noqa: N802
        self, request: pb.StopWorkerRequest, context: Context
    ) -> pb.StopWorkerResponse:
        """Have a worker drained and stopped."""
        refuse_unknown_fields(request)
        await self._stop(request.worker_id, keep=False)
        return pb.StopWorkerResponse()

    async def DrainWorker(  # noqa: N802
        self, request: pb.DrainWorkerRequest, context: Context
    ) -> pb.DrainWorkerResponse:
        """Let a worker take no new work."""
        refuse_unknown_fields(request)
        await self._stop(request.worker_id, keep=True)
        return pb.DrainWorkerResponse()

    async def ListTenants(  # noqa: N802
        self, request: pb.ListTenantsRequest, context: Context
    ) -> pb.ListTenantsResponse:
        """List tenants with what they may have and what they have now."""
        refuse_unknown_fields(request)
        return pb.ListTenantsResponse(
            tenants=[
                tenant
                for tenant in tenants_of(self._state)
                if request.tenant_id in ("", tenant.tenant_id)
            ],
            enforced=self._state.settings.quotas.is_enforced,
        )

    async def SetModelScale(  # noqa: N802
        self, request: pb.SetModelScaleRequest, context: Context
    ) -> pb.SetModelScaleResponse:
        """Take over how many workers of a model there should be."""
        refuse_unknown_fields(request)
        if not request.model:
            raise refuse(Refusal.INVALID_REQUEST, "model must not be empty", field="model")
        model = ModelName(request.model)
        scale = scale_of(request.scale) if request.HasField("scale") else None
        await self._ask(
            lambda call_id: ModelScaleRequested(call_id=call_id, model=model, scale=scale)
        )
        return pb.SetModelScaleResponse(model_scale=self._scales(model)[0])

    async def ListModelScales(  # noqa: N802
        self, request: pb.ListModelScalesRequest, context: Context
    ) -> pb.ListModelScalesResponse:
        """List what is wanted of each model."""
        refuse_unknown_fields(request)
        return pb.ListModelScalesResponse(model_scales=self._scales(ModelName(request.model)))

    def _scales(self, model: ModelName) -> list[pb.ModelScale]:
        return model_scales_of(self._state, models_of(self._state, self._hosts), model)

    async def _stop(self, worker_id: str, *, keep: bool) -> None:
        if not worker_id:
            raise refuse(Refusal.INVALID_REQUEST, "worker_id must not be empty", field="worker_id")
        await self._ask(
            lambda call_id: WorkerStopRequested(
                call_id=call_id, worker_id=WorkerId(worker_id), keep=keep
            )
        )

    async def _ask(self, event_of: Callable[[int], Event]) -> AnswerCall:
        """Hand an operator's wish to the writer and wait for its answer."""
        self._answers.calls_count += 1
        call_id = self._answers.calls_count
        waiter: asyncio.Future[AnswerCall] = asyncio.get_running_loop().create_future()
        self._answers.operators[call_id] = waiter
        try:
            self._post(event_of(call_id))
            answer = await waiter
        finally:
            self._answers.operators.pop(call_id, None)
        if answer.refused is not None:
            raise RpcRefusal(answer.refused)
        return answer
