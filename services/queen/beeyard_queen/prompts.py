"""The requests of jobs that have not ended, as bytes: in memory up to a budget, in the store always.

A prompt never enters the core and is never logged. It is held here from acceptance to the offer, because the offer
usually follows within milliseconds; what does not fit the budget is read back from the store when its turn comes.
"""

from dataclasses import dataclass, field

from beeyard_core import limits
from beeyard_core.ids import JobId

from beeyard_queen.store.port import JobReader


@dataclass(slots=True)
class Prompts:
    """Serialized `GenerateRequest`s by job."""

    reader: JobReader
    _held: dict[JobId, bytes] = field(default_factory=dict)
    _unsaved: dict[JobId, bytes] = field(default_factory=dict)
    _bytes: int = 0

    def put(self, job_id: JobId, request: bytes) -> None:
        """Keep a request that is not durable yet."""
        self._unsaved[job_id] = request

    def unsaved(self, job_id: JobId) -> bytes | None:
        """Return a request that has to become durable with its job's first row."""
        return self._unsaved.get(job_id)

    def mark_saved(self, job_id: JobId) -> None:
        """Record that a request is durable; from now on it may be dropped from memory."""
        request = self._unsaved.pop(job_id, None)
        if request is not None and self._bytes + len(request) <= limits.PROMPT_MEMORY_BYTES_MAX:
            self._held[job_id] = request
            self._bytes += len(request)

    def forget(self, job_id: JobId) -> None:
        """Drop a request from memory."""
        self._unsaved.pop(job_id, None)
        request = self._held.pop(job_id, None)
        if request is not None:
            self._bytes -= len(request)

    async def get(self, job_id: JobId) -> bytes | None:
        """Return a request from memory or store; None if the job has ended and it was erased."""
        request = self._held.get(job_id) or self._unsaved.get(job_id)
        if request is not None:
            return request
        return (await self.reader.prompts([job_id])).get(job_id)
