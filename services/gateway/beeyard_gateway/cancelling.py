"""Cancels the jobs of clients that hung up, beside the requests, which have ended by then."""

import asyncio

from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard_runtime.log import get_log

from beeyard_gateway.faults import Fault
from beeyard_gateway.metrics import GatewayMetrics
from beeyard_gateway.queen_link import QueenLink

_log = get_log("cancelling")


class Cancellations:
    """Calls that are under way; as many as there were clients, which are bounded."""

    def __init__(self, link: QueenLink, metrics: GatewayMetrics) -> None:
        """Begin with none."""
        self._link = link
        self._metrics = metrics
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, job_id: str) -> None:
        """Cancel a job; returns at once."""
        task = asyncio.create_task(self._cancel(job_id))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def settled(self) -> None:
        """Return once every cancellation has been answered or has failed."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _cancel(self, job_id: str) -> None:
        try:
            await self._link.ask(self._link.inference.CancelJob, pb.CancelJobRequest(job_id=job_id))
        except Fault as fault:
            # The job ends by itself, at its last token; nobody reads it.
            _log.warning("cancellation_failed", job_id=job_id, reason=fault.reason)
        else:
            self._metrics.cancelled("hang_up")
