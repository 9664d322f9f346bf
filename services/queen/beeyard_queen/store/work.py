"""What the queen needs remembered of heavy work, and looked up again.

Rows are written by the loop with everything else of a batch (`port.Batch.work`); this is the port of those who read.
Payloads and results are bytes that nobody here understands. They are written once, each with the row of the moment, and
read only when somebody is to be sent them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkRow:
    """One piece of work as it is remembered. Wall times in milliseconds since the epoch; 0 where not yet.

    Attributes:
        digest: Hash of the request body, for the idempotency key.
        epoch: Of the current or last lease; 0 before the first.
        details: Everything else, as JSON.
        payload: What to do; empty: as it was. Erased when the work ends.
        result: What came of it; empty: as it was.
    """

    work_id: str
    sequence: int
    tenant_id: str
    request_id: str
    digest: bytes
    kind: str
    state: str
    is_ended: bool
    created_ms: int
    ended_ms: int
    epoch: int
    details: str
    payload: bytes = b""
    result: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkFilter:
    """Which work to list: all given conditions hold. Newest first, strictly before `before_sequence` unless 0."""

    states: tuple[str, ...] = ()
    tenant_id: str = ""
    kind: str = ""
    before_sequence: int = 0
    limit: int = 50


class Bodies(NamedTuple):
    """What to do, and what came of it; empty where there is none (any more)."""

    payload: bytes
    result: bytes


class WorkReader(Protocol):
    """Looks up what is durable. May be called concurrently, also while a commit runs. Rows come without bodies."""

    async def work(self, work_id: str) -> WorkRow | None:
        """Return one piece of work, or None."""
        ...

    async def work_by_request(self, tenant_id: str, request_id: str) -> WorkRow | None:
        """Return the work of an idempotency key, or None."""
        ...

    async def work_by_epoch(self, epoch: int) -> WorkRow | None:
        """Return the work whose current or last lease has this epoch, or None."""
        ...

    async def works(self, work_filter: WorkFilter) -> Sequence[WorkRow]:
        """Return at most `limit` pieces of work that match, newest first."""
        ...

    async def bodies(self, work_id: str) -> Bodies:
        """Return payload and result of one piece of work; empty if there is no such work."""
        ...
