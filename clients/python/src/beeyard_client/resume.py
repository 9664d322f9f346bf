"""How a broken stream goes on where it broke, and how long anybody tries.

A job does not end with the call that submitted it. So a stream that breaks is opened again from the index of the next
token: with `Infer` and the same `request_id` while no event told the job's id (the queen knows the request and answers
with the same job), with `WatchJob` afterwards. `Cursor` keeps the place and drops what was seen already; `Patience`
says how long to wait and when to give up. Neither knows gRPC.
"""

import asyncio
import dataclasses
import random
import time
from typing import Protocol

import grpc

from beeyard_client import limits
from beeyard_client.errors import DRAINING, STREAM_READ_ERROR, BeeyardError, LinkBrokenError
from beeyard_client.events import Cancelled, Event, Failed, Finished, Queued, Started, Tokens


@dataclasses.dataclass(slots=True)
class Cursor:
    """The place in one job's story: which job, and what was told already."""

    job_id: str = ""
    next_index: int = 0
    attempt: int = 0
    queued: bool = False

    def take(self, event: Event) -> Event | None:
        """Move past `event` and return it, or None if it was told already.

        Raises:
            LinkBrokenError: A token is missing or told in part, so the stream must be opened again.
        """
        self.job_id = event.job_id or self.job_id
        match event:
            case Queued():
                told, self.queued = self.queued, True
                return None if told else event
            case Started():
                told = event.attempt <= self.attempt
                self.attempt = max(self.attempt, event.attempt)
                return None if told else event
            case Tokens():
                return self._take_tokens(event)
            case _:
                return event

    def _take_tokens(self, tokens: Tokens) -> Tokens | None:
        end_index = tokens.first_index + tokens.count
        if end_index <= self.next_index:
            return None
        if tokens.first_index != self.next_index:
            raise LinkBrokenError(
                STREAM_READ_ERROR,
                f"token {self.next_index} was due, {tokens.first_index} came",
                job_id=self.job_id,
            )
        self.next_index = end_index
        return tokens


def is_ending(event: Event) -> bool:
    """Whether nothing follows this event."""
    return isinstance(event, (Finished, Failed, Cancelled))


def may_resume(fault: BeeyardError, cursor: Cursor) -> bool:
    """Whether opening the stream again can help.

    A refusal of a job that is not accepted yet is final, unless the queen is shutting down: the next one may take it.
    Once it is accepted, a queen that says UNAVAILABLE (it drains, or its store is away) still has the job.
    """
    if isinstance(fault, LinkBrokenError) or is_ending_queen(fault):
        return True
    return bool(cursor.job_id) and fault.code is grpc.StatusCode.UNAVAILABLE


def is_ending_queen(fault: BeeyardError) -> bool:
    """Whether a queen turned the request away because it is shutting down."""
    return fault.reason == DRAINING


class Pauses(Protocol):
    """What waiting needs from the world; tests give their own."""

    def now_ms(self) -> float:
        """Return milliseconds of a clock that never jumps."""
        ...

    async def sleep_ms(self, ms: float) -> None:
        """Return after `ms` milliseconds."""
        ...

    def jitter(self) -> float:
        """Return a number from 0 to 1, another each time."""
        ...


class SystemPauses:
    """The real clock and real chance."""

    def __init__(self) -> None:
        self._random = random.Random()  # noqa: S311  jitter is no secret

    def now_ms(self) -> float:
        """Return milliseconds of the monotonic clock."""
        return time.monotonic() * 1000

    async def sleep_ms(self, ms: float) -> None:
        """Sleep without blocking the loop."""
        await asyncio.sleep(ms / 1000)

    def jitter(self) -> float:
        """Return a pseudo-random number from 0 to 1."""
        return self._random.random()


class Patience:
    """Waits longer after each failure in a row, and raises the failure when the time is over."""

    def __init__(self, pauses: Pauses, *, quiet_ms: int, deadline_ms: int = 0) -> None:
        """Start the clock.

        Args:
            pauses: Clock and chance.
            quiet_ms: How long to go on without any progress, milliseconds.
            deadline_ms: How long to go on at all, milliseconds from now; 0: only `quiet_ms` counts.
        """
        self._pauses = pauses
        self._quiet_ms = quiet_ms
        self._deadline_at = pauses.now_ms() + deadline_ms if deadline_ms else None
        self._failures = 0
        self._give_up_at = 0.0

    def progressed(self) -> None:
        """Note that something came: the next failure is the first again."""
        self._failures = 0

    def remaining_ms(self, otherwise: int) -> float:
        """Return the time until the deadline in milliseconds, 1 or more; `otherwise` if there is none."""
        if self._deadline_at is None:
            return otherwise
        return max(1.0, self._deadline_at - self._pauses.now_ms())

    def allow(self, quiet_ms: int) -> None:
        """Change how long to go on without any progress, milliseconds."""
        self._quiet_ms = quiet_ms

    async def pause(self, fault: BeeyardError) -> None:
        """Wait before the next try.

        Raises:
            BeeyardError: `fault` itself, when the time is over.
        """
        now_ms = self._pauses.now_ms()
        if self._failures == 0:
            self._give_up_at = now_ms + self._quiet_ms
        ceiling_ms = min(
            limits.RECONNECT_MAX_MS, limits.RECONNECT_MIN_MS << min(self._failures, 16)
        )
        self._failures += 1
        # Half fixed, half by chance: never at once, and a thousand clients do not come back together.
        wait_ms = ceiling_ms * (0.5 + self._pauses.jitter() / 2)
        asked_ms = min(fault.retry_after_ms or 0, limits.RETRY_AFTER_MS_MAX)
        wait_ms = max(wait_ms, float(asked_ms))
        give_up_at = self._give_up_at
        if self._deadline_at is not None:
            give_up_at = min(give_up_at, self._deadline_at)
        if now_ms + wait_ms > give_up_at:
            raise fault
        await self._pauses.sleep_ms(wait_ms)
