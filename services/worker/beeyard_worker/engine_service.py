"""EngineService: the worker spoken to directly, by its pool manager or by anybody with grpcurl.

A direct call takes a slot like any lease does and is refused when there is none; it is neither queued nor
durable. It is served while the model loads, too, so that an operator can see what happens.
"""

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence

import grpc
from beeyard.worker.v1 import engine_service_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2_grpc
from beeyard_core import limits
from beeyard_core.refusal import Refusal, Refused
from beeyard_runtime import semconv
from beeyard_runtime.clock import Clock
from beeyard_runtime.rpc_errors import RpcRefusal, refuse
from opentelemetry import context as otel_context

from beeyard_worker import wire
from beeyard_worker.engine.port import EngineFault, Finish, Generation, Token
from beeyard_worker.runner import Runner
from beeyard_worker.slots import WorkerBusy
from beeyard_worker.status import WorkerStatus

GenerateContext = grpc.aio.ServicerContext[pb.GenerateRequest, pb.GenerateResponse]


class DirectCalls:
    """The direct generations that run now, so that a drain can wait for them and end them."""

    def __init__(self) -> None:
        """Start with none."""
        self._tasks: dict[asyncio.Task[Finish], Refused | None] = {}
        self._on_rest: Callable[[], None] = lambda: None

    def watch_rest(self, on_rest: Callable[[], None]) -> None:
        """Call `on_rest` whenever one has ended."""
        self._on_rest = on_rest

    @property
    def is_idle(self) -> bool:
        """Whether none runs."""
        return not self._tasks

    def fail_running(self, reason: Refusal, message: str) -> None:
        """End all that run; their callers get this refusal."""
        for task in self._tasks:
            self._tasks[task] = Refused(reason=reason, message=message)
            task.cancel()

    async def hold(self, task: asyncio.Task[Finish]) -> Finish:
        """Return what the task returns, and end it with its caller.

        Raises:
            RpcRefusal: `fail_running` ended it.
        """
        self._tasks[task] = None
        try:
            await asyncio.wait([task])
        finally:
            refused = self._tasks.pop(task)
            if not task.done():
                task.cancel()
                await asyncio.wait([task])
            self._on_rest()
        if task.cancelled() and refused is not None:
            raise RpcRefusal(refused)
        return task.result()


class EngineService(engine_service_pb2_grpc.EngineServiceServicer):
    """The servicer."""

    def __init__(
        self,
        *,
        runner: Runner,
        status: WorkerStatus,
        direct: DirectCalls,
        clock: Clock,
        chance: random.Random,
        on_supervisor: Callable[[str], None],
        on_drain: Callable[[int], None],
    ) -> None:
        """Serve what `runner` runs.

        Args:
            runner: The engine with its slots.
            status: What GetStatus tells.
            direct: Where running calls are noted.
            clock: Measures calls.
            chance: Draws the seed of requests that name none.
            on_supervisor: Called with the id of a supervisor that asks for the status.
            on_drain: Called with the grace in milliseconds, 0 for the default.
        """
        self._runner = runner
        self._status = status
        self._direct = direct
        self._clock = clock
        self._chance = chance
        self._on_supervisor = on_supervisor
        self._on_drain = on_drain
        self._numbers = itertools.count(1)

    async def GetStatus(  # noqa: N802 - the name in the contract
        self, request: pb.GetStatusRequest, context: object
    ) -> pb.EngineStatus:
        """Tell what the worker holds and does; a supervisor's call keeps it alive."""
        del context
        if len(request.supervisor_id.encode()) > limits.ID_BYTES_MAX:
            message = f"supervisor_id: must not exceed {limits.ID_BYTES_MAX} bytes"
            raise refuse(Refusal.INVALID_REQUEST, message, field="supervisor_id")
        if request.supervisor_id:
            self._on_supervisor(request.supervisor_id)
        return self._status.to_wire()

    async def Drain(  # noqa: N802 - the name in the contract
        self, request: pb.DrainRequest, context: object
    ) -> pb.EngineStatus:
        """Begin the end of this process and answer at once."""
        del context
        if request.grace_ms < 0:
            raise refuse(
                Refusal.INVALID_REQUEST, "grace_ms: must not be negative", field="grace_ms"
            )
        self._on_drain(request.grace_ms)
        return self._status.to_wire()

    # Writes by hand, so that a client that is slow makes the engine wait; the stubs know generators only.
    async def Generate(  # type: ignore[override]  # noqa: N802 - the name in the contract
        self, request: pb.GenerateRequest, context: GenerateContext
    ) -> None:
        """Generate one answer outside the queen's queue."""
        started_ms = self._clock.now().mono_ms
        generation = wire.generation_from(
            request,
            default_max_tokens=limits.MAX_TOKENS_DEFAULT,
            default_seed=self._chance.randrange(limits.SEED_MAX + 1),
        )
        if isinstance(generation, Refused):
            raise RpcRefusal(generation)
        try:
            finish = await self._generate(generation, context)
        except EngineFault as fault:
            raise refuse(fault.reason, fault.message) from None
        except WorkerBusy:
            # Somebody else took the slot between the question and the start.
            message = "no slot, or too little KV memory, is free on this worker"
            raise refuse(Refusal.WORKER_BUSY, message) from None
        finished = wire.finished_to_wire(
            finish,
            resume_count=generation.resume_count,
            total_ms=self._clock.now().mono_ms - started_ms,
        )
        await context.write(pb.GenerateResponse(finished=finished))

    async def _generate(self, generation: Generation, context: GenerateContext) -> Finish:
        plan = await self._runner.plan(generation)
        refused = plan if isinstance(plan, Refused) else self._runner.refusal(plan)
        if refused is not None:
            raise RpcRefusal(refused)
        assert isinstance(plan, int), "what is not refused is planned"
        next_index = generation.resume_count

        async def send(tokens: Sequence[Token]) -> None:
            nonlocal next_index
            chunk = wire.chunk_to_wire(next_index, tokens)
            next_index += len(tokens)
            await context.write(pb.GenerateResponse(tokens=chunk))

        run = self._runner.run(
            f"direct-{next(self._numbers)}",
            generation,
            plan,
            sink=send,
            parent=otel_context.get_current(),
            attributes={
                semconv.WORKER_ID: self._status.identity.worker_id,
                semconv.GEN_AI_REQUEST_MODEL: self._status.identity.model,
            },
        )
        return await self._direct.hold(asyncio.create_task(run))
