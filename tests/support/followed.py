"""One job that a test follows from a task of its own, attempt by attempt."""

import asyncio
from collections.abc import Callable, Sequence

from beeyard_client import BeeyardClient
from beeyard_client.events import Ending, Finished, Started
from beeyard_client.resume import is_ending

from tests.support.clients_under_fire import ATTEMPTS, Book, Gathered, options_of
from tests.support.eventually import eventually
from tests.support.expected_answer import Asked

PATIENCE_S = 60.0


class Followed:
    """One job as its client sees it.

    Attributes:
        started: Its attempts, in order, and by the loop's clock when each began.
        ending: How it ended; None while it runs.
    """

    def __init__(
        self, client: BeeyardClient, asked: Asked, *, max_attempts: int = ATTEMPTS
    ) -> None:
        """Submit it and begin to follow."""
        self.book = Book()
        self.started: list[Started] = []
        self.started_at: list[float] = []
        self.ending: Ending | None = None
        self.gathered = Gathered(asked, self.book)
        self._client = client
        self._options = {**options_of(asked), "max_attempts": max_attempts}
        self.task = asyncio.create_task(self._follow())

    @property
    def tokens(self) -> int:
        """How many have come."""
        return len(self.gathered.ids)

    async def _follow(self) -> None:
        asked = self.gathered.asked
        self._stream = self._client.infer(asked.prompt, **self._options)  # type: ignore[arg-type]
        async for event in self._stream:
            if isinstance(event, Started):
                self.started.append(event)
                self.started_at.append(asyncio.get_running_loop().time())
            self.gathered.take(event)
            if is_ending(event):
                self.ending = event  # type: ignore[assignment]  # says so
        if isinstance(self.ending, Finished):
            await self.gathered.check()
        else:
            await self.gathered.check_so_far()

    async def cancel(self) -> None:
        """Have it end now, and see that end."""
        await self._client.cancel(self._stream.job_id)
        await self.task


async def until_all(
    jobs: Sequence[Followed], holds: Callable[[Followed], object], what: str
) -> None:
    """Return when it is true of every job."""

    def all_hold() -> bool:
        for job in jobs:
            if job.task.done():
                job.task.result()
        return all(holds(job) for job in jobs)

    await eventually(all_hold, what, PATIENCE_S, look_again_s=0.02)
