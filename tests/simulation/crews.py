"""Heavy work in a story: processes that queue pieces of work and take turns at doing them, by the published client.

What is to be done outlives the process, as with customers. A hand that loses its lease looks for other work.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from beeyard_client.client import BeeyardClient
from beeyard_client.errors import BeeyardError

from tests.simulation.customers import QUEEN
from tests.simulation.event_loop import pass_ms
from tests.simulation.ledger import Ledger
from tests.simulation.story import Chore

_KIND: Final = "chore"
_HANDS: Final = 2
_ATTEMPTS: Final = 10


@dataclass(eq=False)
class Crew:
    """What one crew has to do, over all of its processes."""

    name: str
    chores: tuple[Chore, ...]
    ledger: Ledger
    note: Callable[[str], None]
    now_ms: Callable[[], int]
    queued: dict[str, str] = field(default_factory=dict)

    @property
    def is_served(self) -> bool:
        """Whether every chore came to an end."""
        return all(chore.request_id in self.ledger.ended_work for chore in self.chores)

    async def main(self) -> None:
        """Queue what is not queued yet, and work until everything has ended."""
        async with (
            BeeyardClient(QUEEN, connect_patience_ms=30_000) as client,
            asyncio.TaskGroup() as group,
        ):
            for chore in self.chores:
                group.create_task(self._queue(client, chore))
            for number in range(_HANDS):
                group.create_task(self._work(client, f"{self.name}-{number}"))

    async def _queue(self, client: BeeyardClient, chore: Chore) -> None:
        await pass_ms(chore.at_ms - self.now_ms())
        while chore.request_id not in self.queued:
            try:
                work = await client.submit_work(
                    _KIND,
                    capacity_units=chore.units,
                    payload={"ms": chore.ms},
                    tenant_id=chore.tenant_id,
                    max_attempts=_ATTEMPTS,
                    request_id=chore.request_id,
                )
            except BeeyardError as error:
                self.note(f"{self.name}: {chore.request_id} is told {error.reason}")
                await pass_ms(1_000)
            else:
                self.ledger.work_accepted(chore, work.work_id)
                self.queued[chore.request_id] = work.work_id
                self.note(f"{self.name}: {chore.request_id} accepted as {work.work_id}")

    async def _work(self, client: BeeyardClient, hand: str) -> None:
        while not self.is_served:
            try:
                async with client.next_lease([_KIND], worker_id=hand, patience_ms=3_000) as lease:
                    ms = lease.work.payload["ms"]
                    assert isinstance(ms, int), "it was queued so"
                    await pass_ms(ms)
                    lease.result = {"by": hand}
            except BeeyardError as error:
                self.note(f"{hand}: {error.reason}")
                await pass_ms(500)
            else:
                self.ledger.work_done(lease.work.work_id, hand)
                self.note(f"{hand}: has done {lease.work.work_id}")
