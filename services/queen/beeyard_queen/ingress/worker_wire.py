"""Between the messages of the worker stream and the core's values."""

from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard.worker.v1 import generation_pb2 as generation_pb
from beeyard.worker.v1 import worker_service_pb2 as pb
from beeyard_core import limits
from beeyard_core.event import LeaseClaim
from beeyard_core.fleet import WorkerReport, WorkerState
from beeyard_core.ids import Epoch, LeaseId, ModelName, PoolId, WorkerId
from beeyard_core.job import Finish
from beeyard_core.refusal import Refusal
from beeyard_runtime.rpc_errors import refuse

WORKER_STATES = {
    engine_pb.WORKER_STATE_STARTING: WorkerState.STARTING,
    engine_pb.WORKER_STATE_READY: WorkerState.READY,
    engine_pb.WORKER_STATE_BUSY: WorkerState.BUSY,
    engine_pb.WORKER_STATE_DRAINING: WorkerState.DRAINING,
    engine_pb.WORKER_STATE_FAILED: WorkerState.FAILED,
}
WIRE_WORKER_STATES = {state: number for number, state in WORKER_STATES.items()}
FINISH_REASONS = {
    generation_pb.FINISH_REASON_STOP: "stop",
    generation_pb.FINISH_REASON_LENGTH: "length",
}
WIRE_FINISH_REASONS = {reason: number for number, reason in FINISH_REASONS.items()}


def refusal_of(reason: str) -> Refusal:
    """Return the refusal that a worker named; one that is not on the list is a WORKER_ERROR."""
    try:
        return Refusal(reason)
    except ValueError:
        return Refusal.WORKER_ERROR


def finish_of(generation: engine_pb.GenerationFinished) -> Finish:
    """Return how a generation ended."""
    return Finish(
        reason=FINISH_REASONS.get(generation.reason, "stop"),
        prompt_tokens=generation.usage.prompt_tokens,
        cached_prompt_tokens=generation.usage.cached_prompt_tokens,
        prefill_ms=generation.timings.prefill_ms,
        decode_ms=generation.timings.decode_ms,
    )


def report_of(status: engine_pb.EngineStatus, pool_id: str, address: str) -> WorkerReport:
    """Return what a worker says of itself, with absurd figures cut to their limits."""
    return WorkerReport(
        worker_id=WorkerId(status.worker_id),
        pool_id=PoolId(pool_id),
        model=ModelName(status.model),
        engine=status.engine,
        state=WORKER_STATES.get(status.state, WorkerState.STARTING),
        slots_total=max(0, min(status.slots_total, limits.SLOTS_MAX)),
        kv_tokens_total=max(0, status.kv_tokens_total),
        context_tokens=max(0, status.context_tokens),
        address=address,
        device=status.device,
        engine_version=status.engine_version,
        quantization=status.quantization,
        deterministic=status.deterministic,
        token_ids=status.token_ids,
        load_progress=status.load_progress,
        tokens_per_s=status.tokens_per_s,
        uptime_s=status.uptime_s,
        failure=status.failure,
        extensions=extensions_of(status),
    )


def extensions_of(status: engine_pb.EngineStatus) -> frozenset[str]:
    """Return what a worker says that it can do, without what is no word."""
    words = (word for word in status.extensions if word and "," not in word)
    return frozenset(
        [word for word in words if len(word.encode()) <= limits.ID_BYTES_MAX][
            : limits.EXTENSIONS_MAX
        ]
    )


def claims_of(hello: pb.Hello) -> tuple[LeaseClaim, ...]:
    """Return the leases that a worker says it still holds."""
    return tuple(
        LeaseClaim(
            lease_id=LeaseId(held.lease_id), epoch=Epoch(held.epoch), next_index=held.next_index
        )
        for held in hello.leases
    )


def check_hello(hello: pb.Hello) -> None:
    """Refuse a hello that does not name its worker and model.

    Raises:
        RpcRefusal: INVALID_REQUEST with the field.
    """
    for field, value in (
        ("hello.status.worker_id", hello.status.worker_id),
        ("hello.status.model", hello.status.model),
    ):
        if not value or len(value.encode()) > limits.ID_BYTES_MAX:
            message = f"must be 1 to {limits.ID_BYTES_MAX} bytes"
            raise refuse(Refusal.INVALID_REQUEST, f"{field} {message}", field=field)
    if len(hello.leases) > limits.SLOTS_MAX:
        message = f"a worker holds at most {limits.SLOTS_MAX} leases"
        raise refuse(Refusal.INVALID_REQUEST, message, field="hello.leases")
