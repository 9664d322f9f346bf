"""One job followed to its end for one HTTP client, over broken links and restarts of the queen.

A job does not end with the call that submitted it. When a link breaks after the job was accepted, the stream is opened
again from the index of the next token, so the client sees a pause. Before that, only a request with an idempotency key
is sent again: without one, a second submission could be a second job.

This is the client library's rule in the gateway's words (docs/adr): here messages go from the wire to bytes without
types in between, and the fault at the end is an HTTP answer.
"""

import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Final, Protocol

import grpc
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import job_pb2
from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import Clock
from beeyard_runtime.rpc_channel import Leavable, leave

from beeyard_gateway.faults import Fault, Headers, HttpReason
from beeyard_gateway.queen_link import QueenLink, fault_of

_STREAM_TIMEOUT_S: Final = limits.DEADLINE_MS_MAX / 1_000
#: What an accepted job survives: it is still there when the queen is back.
_PASSING: Final = frozenset(
    {
        HttpReason.QUEEN_UNREACHABLE.value,
        Refusal.DRAINING.value,
        Refusal.STORE_UNAVAILABLE.value,
    }
)
ENDINGS: Final = frozenset({"finished", "failed", "cancelled"})


def place_headers(queued: job_pb2.JobQueued) -> Headers:
    """Return the headers that tell where an accepted job stands, and what is left to its session."""
    headers = [
        (b"x-queue-position", str(queued.position).encode()),
        (b"x-queue-eta-ms", str(queued.predicted_start_ms).encode()),
    ]
    left = queued.budget
    if left.HasField("tokens_remaining"):
        headers.append((b"x-budget-tokens-remaining", str(left.tokens_remaining).encode()))
    if left.HasField("cost_units_remaining"):
        headers.append((b"x-budget-cost-remaining", str(left.cost_units_remaining).encode()))
    return headers


class EventCall(Leavable, Protocol):
    """The call that brings the events: `Infer` or `WatchJob`."""

    def __aiter__(self) -> AsyncIterator[job_pb2.JobEvent]:
        """Return its messages."""
        ...


class JobFollow:
    """The events of one job, in order, each once; ends after the job's last event.

    Attributes:
        job_id: The job; empty until the queen accepted it.
        next_index: Index of the token that comes next.
        has_ended: Whether the job's last event came.
    """

    def __init__(
        self,
        link: QueenLink,
        clock: Clock,
        submit: Callable[[], EventCall] | None = None,
        *,
        may_repeat: bool = False,
        job_id: str = "",
        next_index: int = 0,
    ) -> None:
        """Prepare to follow; nothing is sent before the first iteration.

        Args:
            link: Where the queen is.
            clock: Measures the pauses.
            submit: Sends a new job; None: `job_id` names one that exists.
            may_repeat: Whether sending it twice is one job.
            job_id: The job to follow.
            next_index: How many tokens the client already has.
        """
        self._link = link
        self._clock = clock
        self._submit = submit
        self._may_repeat = may_repeat
        self._attempt = 0
        self._was_queued = False
        self._failures = 0
        self._give_up_at_ms = 0
        self.job_id = job_id
        self.next_index = next_index
        self.has_ended = False

    async def events(self) -> AsyncGenerator[job_pb2.JobEvent, None]:
        """Yield the events.

        Raises:
            Fault: The queen refused the job, or was not to be reached for too long.
        """
        while True:
            try:
                # A job that exists is waited for below; what does not exist yet, no longer than a restart takes.
                await self._link.connected()
                call = self._open()
                try:
                    async for event in call:
                        if self._is_news(event):
                            yield event
                        if self.has_ended:
                            return
                finally:
                    await leave(call, has_ended=self.has_ended)
                fault = Fault(HttpReason.QUEEN_UNREACHABLE, "the stream ended before the job did")
            except grpc.aio.AioRpcError as error:
                fault = fault_of(error)
            except Fault as known:
                fault = known
            await self._pause(fault)

    def _open(self) -> EventCall:
        if self._submit is not None and not self.job_id:
            return self._submit()
        request = pb.WatchJobRequest(job_id=self.job_id, from_token=self.next_index)
        return self._link.inference.WatchJob(request, timeout=_STREAM_TIMEOUT_S)

    def _is_news(self, event: job_pb2.JobEvent) -> bool:
        """Take an event in; return whether the client has not seen it."""
        self.job_id = event.job_id
        self._failures = 0
        match event.WhichOneof("event"):
            case "tokens":
                return self._take_tokens(event)
            case "queued":
                was_queued, self._was_queued = self._was_queued, True
                return not was_queued
            case "started":
                is_news = event.started.attempt > self._attempt
                self._attempt = max(event.started.attempt, self._attempt)
                return is_news
            case kind:
                self.has_ended = kind in ENDINGS
                return True

    def _take_tokens(self, event: job_pb2.JobEvent) -> bool:
        first, end = event.tokens.first_index, event.tokens.first_index + event.tokens.count
        if end <= self.next_index:
            return False
        if first != self.next_index:
            raise Fault(HttpReason.QUEEN_UNREACHABLE, "tokens are missing in the stream")
        self.next_index = end
        return True

    async def _pause(self, fault: Fault) -> None:
        """Wait before the stream is opened again.

        Raises:
            Fault: `fault` itself, if that cannot help or lasts too long.
        """
        is_known = bool(self.job_id)
        if fault.reason not in _PASSING or not (is_known or self._may_repeat):
            raise fault
        now_ms = self._clock.now().mono_ms
        if self._failures == 0:
            patience_ms = limits.QUEEN_RETURN_PATIENCE_MS if is_known else limits.QUEEN_PATIENCE_MS
            self._give_up_at_ms = now_ms + patience_ms
        wait_ms = min(limits.RECONNECT_MIN_MS << min(self._failures, 8), limits.RECONNECT_MAX_MS)
        self._failures += 1
        if now_ms + wait_ms > self._give_up_at_ms:
            raise fault
        # A thousand streams that broke together do not come back together.
        await self._clock.sleep_ms(int(wait_ms * random.uniform(0.5, 1.0)))  # noqa: S311  no secret
