"""When the queen takes nothing new, whatever it is: too much waits for its writer, or its store is ill."""

from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.rpc_errors import refuse

from beeyard_queen.loop import WriterLoop


def refuse_overload(loop: WriterLoop) -> None:
    """Refuse new work while it could not be accepted soon.

    Raises:
        RpcRefusal: QUEUE_FULL_REJECT or STORE_UNAVAILABLE.
    """
    if loop.is_full:
        message = "the queen is overloaded; send the request again in a moment"
        raise refuse(
            Refusal.QUEUE_FULL_REJECT,
            message,
            retry_after_ms=limits.RECONNECT_MAX_MS,
            metadata={
                "policy_label": "reject",
                "queue_position": str(len(loop.state.queue)),
                # Nothing is known of a queue that is too busy to be asked.
                "queue_eta_ms": "0",
            },
        )
    if not loop.is_store_healthy:
        message = "the queen cannot write to its store now; nothing was accepted, try again later"
        raise refuse(Refusal.STORE_UNAVAILABLE, message, retry_after_ms=limits.RECONNECT_MAX_MS)
