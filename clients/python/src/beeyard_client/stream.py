"""One job as its client follows it: an async iterator of events that survives broken connections."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self

import grpc
from beeyard.queen.v1 import job_pb2

from beeyard_client import limits, wire
from beeyard_client.errors import (
    STREAM_READ_ERROR,
    BeeyardError,
    JobCancelledError,
    JobFailedError,
    LinkBrokenError,
    from_rpc_error,
)
from beeyard_client.events import Cancelled, Ending, Event, Failed, Finished, Started, Tokens
from beeyard_client.job import Job
from beeyard_client.resume import Cursor, Patience, is_ending, may_resume
from beeyard_client.tracing import JobTrace


class EventCall(Protocol):
    """The call that brings the events: `Infer` or `WatchJob`."""

    def __aiter__(self) -> AsyncIterator[job_pb2.JobEvent]:
        """Return its messages."""
        ...

    def cancel(self) -> bool:
        """End it; grpc.aio never does so by itself."""
        ...

    async def code(self) -> grpc.StatusCode:
        """Wait until it has ended, and return how."""
        ...


class JobStream:
    """The events of one job, in order, each once; ends after the job's last event.

    Iterate over it once, or `await text()`. Leaving it does not end the job: `cancel()` does. As an async context
    manager it closes its call at the end of the block.

    Attributes:
        job_id: The job; empty until the queen accepted it.
        request_id: The idempotency key that was sent; empty when an existing job is watched.
        started: The last attempt that began; None before the first.
        ending: The job's last event; None before it came.
    """

    def __init__(
        self,
        *,
        open_call: Callable[[Cursor, Patience], EventCall],
        cancel_job: Callable[[Cursor], Awaitable[Job]],
        cursor: Cursor,
        patience: Patience,
        trace: JobTrace,
        request_id: str = "",
        address: str = "",
    ) -> None:
        """Prepare to follow; nothing is sent before the first iteration. Made by the client only."""
        self._open_call = open_call
        self._cancel_job = cancel_job
        self._cursor = cursor
        self._patience = patience
        self._trace = trace
        self._address = address
        self._texts: list[str] = []
        self._ids: list[int] = []
        self._events = self._follow()
        self._is_known = False
        self.request_id = request_id
        self.started: Started | None = None
        self.ending: Ending | None = None

    @property
    def job_id(self) -> str:
        """The job; empty until the queen accepted it."""
        return self._cursor.job_id

    @property
    def trace_id(self) -> str:
        """The trace that this client began for the job; empty when it traces nothing."""
        return self._trace.trace_id

    @property
    def text_so_far(self) -> str:
        """The text that came so far."""
        return "".join(self._texts)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids that came so far; empty when the engine reveals none."""
        return tuple(self._ids)

    def __aiter__(self) -> AsyncIterator[Event]:
        """Return the events that did not come yet."""
        return self._events

    async def __aenter__(self) -> Self:
        """Return the stream itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the call; the job goes on if it has not ended."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the call. The job goes on if it has not ended; `BeeyardClient.watch` follows it again."""
        await self._events.aclose()
        self._trace.end()

    async def text(self) -> str:
        """Follow the job to its end and return its whole text from the first index asked for.

        Raises:
            JobFailedError: The job is FAILED or EXPIRED.
            JobCancelledError: The job is CANCELLED.
            BeeyardError: The queen refused the job, or was not to be reached for too long.
        """
        async for _ in self._events:
            pass
        match self.ending:
            case Finished():
                return self.text_so_far
            case Failed() as failed:
                raise JobFailedError(
                    failed.reason,
                    failed.message,
                    retriable=failed.retriable,
                    retry_after_ms=failed.retry_after_ms or None,
                    job_id=self.job_id,
                )
            case Cancelled():
                raise JobCancelledError(self.job_id)
            case None:
                raise LinkBrokenError(
                    STREAM_READ_ERROR, "the stream was closed before the job ended"
                )

    async def cancel(self) -> Job:
        """Cancel the job and return it; an ended job is returned as it is. No token comes after the answer.

        Also right after the submission, while nobody knows yet whether the queen accepted the job: then it is
        submitted again under the same `request_id`, which names the same job, and cancelled.
        """
        return await self._cancel_job(self._cursor)

    async def _follow(self) -> AsyncGenerator[Event, None]:
        try:
            while self.ending is None:
                try:
                    async for event in self._one_call():
                        yield event
                except BeeyardError as error:
                    if not may_resume(error, self._cursor):
                        raise
                    await self._patience.pause(error)
        except BeeyardError as error:
            error.job_id = error.job_id or self.job_id
            self._trace.end(error)
            raise
        finally:
            self._trace.end()

    async def _one_call(self) -> AsyncGenerator[Event, None]:
        call = self._open_call(self._cursor, self._patience)
        try:
            async for message in call:
                event = self._take(message)
                if event is None:
                    continue
                yield event
                if is_ending(event):
                    return
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, address=self._address) from error
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Nobody cancelled us: the client was closed, and its calls with it.
            raise BeeyardError(STREAM_READ_ERROR, "the client was closed") from None
        finally:
            await _leave(call, has_ended=self.ending is not None)
        raise LinkBrokenError(STREAM_READ_ERROR, "the stream ended before the job did")

    def _take(self, message: job_pb2.JobEvent) -> Event | None:
        event = wire.event(message)
        if event is not None:
            event = self._cursor.take(event)
        if not self._is_known and self.job_id:
            # From here on the job exists, so it is worth waiting for: one that is watched, as well as one that was
            # submitted just now.
            self._is_known = True
            self._patience.allow(limits.RESUME_PATIENCE_MS)
        self._patience.progressed()
        if event is not None:
            self._note(event)
        return event

    def _note(self, event: Event) -> None:
        self._trace.record(event)
        match event:
            case Started():
                self.started = event
            case Tokens():
                self._texts.append(event.text)
                self._ids.extend(event.ids)
            case Finished() | Failed() | Cancelled():
                self.ending = event
            case _:
                pass


async def _leave(call: EventCall, *, has_ended: bool) -> None:
    """Cancel a call, since grpc.aio never does so by itself; one that has told everything gets a moment to end.

    A call that is cut while its server ends it costs a server on grpc.aio memory for good: 80 bytes and the message
    that was under way (https://github.com/grpc/grpc/issues/43360).
    """
    try:
        if has_ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(limits.STREAM_END_MS / 1_000):
                    await call.code()
    finally:
        call.cancel()
