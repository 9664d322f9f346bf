"""The clients of a story: the published Python client, used as a program would use it.

What a client wants outlives its process: one that was killed is started again, asks for the same jobs under the same
request ids and reads them from the beginning, as a program that keeps its requests on disk would.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from beeyard_client.client import BeeyardClient
from beeyard_client.errors import BeeyardError
from beeyard_client.events import Cancelled, Event, Failed, Finished, Tokens
from beeyard_client.job import JobOptions
from beeyard_client.stream import JobStream

from tests.simulation.event_loop import pass_ms
from tests.simulation.ledger import Ledger
from tests.simulation.story import Ask, Manner

QUEEN = "127.0.0.1:7700"
#: Most that one job may be tried: workers die often here, and that alone is to end no job.
_ATTEMPTS: Final = 10
#: What a queen says that will be able to later; a client asks again so often.
_PASSING: Final = frozenset({"STORE_UNAVAILABLE", "DRAINING", "QUEEN_UNREACHABLE"})
_TRIES: Final = 30


@dataclass(eq=False)
class Customer:
    """One client's wishes, over all of its processes.

    Attributes:
        outcomes: How each ask ended, as its client saw it; those that are missing are still wanted.
    """

    name: str
    asks: tuple[Ask, ...]
    ledger: Ledger
    note: Callable[[str], None]
    now_ms: Callable[[], int]
    outcomes: dict[str, str] = field(default_factory=dict)

    @property
    def is_served(self) -> bool:
        """Whether every ask came to an end."""
        return len(self.outcomes) == len(self.asks)

    async def main(self) -> None:
        """Ask for everything that is still wanted, and return when all of it has ended."""
        async with BeeyardClient(QUEEN, connect_patience_ms=30_000) as client:
            wanted = [ask for ask in self.asks if ask.request_id not in self.outcomes]
            async with asyncio.TaskGroup() as group:
                for ask in wanted:
                    group.create_task(self._pursue(client, ask))

    async def _pursue(self, client: BeeyardClient, ask: Ask) -> None:
        await pass_ms(ask.at_ms - self.now_ms())
        outcome = await self._insist(client, ask)
        self.outcomes[ask.request_id] = outcome
        self.note(f"{self.name}: {ask.request_id} {outcome}")

    async def _insist(self, client: BeeyardClient, ask: Ask) -> str:
        """Ask again, under the same request id, while the queen says that it cannot just now."""
        for _ in range(_TRIES):
            try:
                return await self._have(client, ask)
            except BeeyardError as error:
                outcome = f"error {error.reason}"
                if error.reason not in _PASSING:
                    break
                self.note(f"{self.name}: {ask.request_id} is told {error.reason}")
                await pass_ms(error.retry_after_ms or 1_000)
        return outcome

    async def _have(self, client: BeeyardClient, ask: Ask) -> str:
        if ask.manner is Manner.INFER:
            stream = client.infer(ask.prompt, **_options(ask))
            return await self._follow(client, ask, stream)
        job = await client.submit(ask.prompt, **_options(ask))
        self.ledger.was_accepted(ask, job.job_id)
        self.note(f"{self.name}: {ask.request_id} accepted as {job.job_id}")
        if ask.manner is Manner.SUBMIT_AND_LEAVE:
            return "left"
        return await self._follow(client, ask, client.watch(job.job_id))

    async def _follow(self, client: BeeyardClient, ask: Ask, stream: JobStream) -> str:
        second: asyncio.Task[None] | None = None
        index = 0
        async with stream:
            async for event in stream:
                self.ledger.was_accepted(ask, stream.job_id)
                if isinstance(event, Tokens):
                    is_first = not index
                    index = self.ledger.told(ask, index, event.first_index, event.ids, event.text)
                    if is_first and ask.watchers:
                        second = asyncio.create_task(
                            self._watch_too(client, ask, stream.job_id, index)
                        )
                    if is_first and ask.pause_ms:
                        await pass_ms(ask.pause_ms)
                if ask.cancel_after is not None and index >= ask.cancel_after:
                    self.ledger.cancelled.add(ask.request_id)
                    await stream.cancel()
                    return "cancelled it"
                if (ending := _ending(event)) is not None:
                    if second is not None:
                        await second
                    return ending
        return "ended without a word"

    async def _watch_too(
        self, client: BeeyardClient, ask: Ask, job_id: str, from_token: int
    ) -> None:
        """Follow from the middle, as a second screen would; how it ends is for the first to say."""
        index = from_token
        try:
            async for event in client.watch(job_id, from_token):
                if isinstance(event, Tokens):
                    index = self.ledger.told(ask, index, event.first_index, event.ids, event.text)
        except BeeyardError as error:
            self.note(f"{self.name}: the second watcher of {ask.request_id}: {error.reason}")


def _options(ask: Ask) -> JobOptions:
    return JobOptions(
        model=ask.model,
        max_tokens=ask.max_tokens,
        seed=ask.seed,
        priority=ask.priority,
        tenant_id=ask.tenant_id,
        session_id=ask.session_id,
        deadline_ms=ask.deadline_ms,
        request_id=ask.request_id,
        max_attempts=_ATTEMPTS,
    )


def _ending(event: Event) -> str | None:
    match event:
        case Finished():
            return "finished"
        case Failed(reason=reason):
            return f"failed {reason}"
        case Cancelled():
            return "was cancelled"
        case _:
            return None


@dataclass(eq=False)
class Auditor:
    """Reads every accepted job once more when all is over, as a client that comes late would."""

    ledger: Ledger
    is_done: bool = False
    endings: dict[str, str] = field(default_factory=dict)

    async def main(self) -> None:
        """Read every accepted job from its first token."""
        async with BeeyardClient(QUEEN, connect_patience_ms=20_000) as client:
            for job_id, ask in self.ledger.accepted.items():
                self.endings[job_id] = await self._read(client, ask, job_id)
        self.is_done = True

    async def _read(self, client: BeeyardClient, ask: Ask, job_id: str) -> str:
        index = 0
        async with client.watch(job_id) as stream:
            async for event in stream:
                if isinstance(event, Tokens):
                    index = self.ledger.told(ask, index, event.first_index, event.ids, event.text)
                if (ending := _ending(event)) is not None:
                    if ending == "finished":
                        assert index == ask.max_tokens, f"{ask.request_id} has {index} tokens"
                    return ending
        return "ended without a word"
