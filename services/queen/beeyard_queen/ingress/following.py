"""How a client follows a job: from memory while it runs, from the store once it has ended."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

import grpc
from beeyard.queen.v1 import job_pb2
from beeyard_core import limits
from beeyard_core.ids import JobId
from beeyard_core.job import Decision, Job, JobState
from beeyard_core.prediction import Prediction
from beeyard_core.refusal import Refusal
from beeyard_core.state import QueenState
from beeyard_core.stream import Frame, TokenLog
from beeyard_runtime.clock import Clock
from beeyard_runtime.rpc_errors import RpcRefusal, refuse
from google.protobuf.message import Message

from beeyard_queen.egress.feed import AttemptStarted, FeedClosed, FeedItem, Feeds, Follower
from beeyard_queen.ingress.submission import Accepted
from beeyard_queen.ingress.waiting import Waiting
from beeyard_queen.ingress.wire import (
    budget_of,
    ending_event,
    queued_event,
    started_event,
    tokens_event,
)
from beeyard_queen.store.port import JobReader
from beeyard_queen.store.rows import job_of
from beeyard_queen.store.tokens import frame_of

Context: TypeAlias = "grpc.aio.ServicerContext[Message, Message]"


@dataclass(slots=True, kw_only=True)
class Following:
    """Streams the events of jobs to clients. `settled` waits until the store knows what the core knows."""

    state: QueenState
    feeds: Feeds
    reader: JobReader
    clock: Clock
    settled: Callable[[], Awaitable[None]]
    waiting: Waiting

    def open(self, job_id: JobId, from_token: int) -> Follower:
        """Begin to follow a job that has not ended, or that is about to be submitted. `close` when done."""
        return Follower(self.feeds.open(job_id), from_token)

    def close(self, follower: Follower, job_id: JobId) -> None:
        """End following. Idempotent."""
        follower.close()
        self.feeds.drop_if_idle(job_id)

    async def watch(self, job_id: JobId, from_token: int, context: Context) -> None:
        """Send everything from a token index on, whether the job runs or has ended.

        Raises:
            RpcRefusal: JOB_NOT_FOUND, RESUME_OFFSET_GONE, or DRAINING when the queen shuts down.
        """
        job = self.state.jobs.get(job_id)
        if job is None or job.is_ended:
            await self._replay(job_id, from_token, context)
            return
        if from_token > job.spec.max_tokens:
            raise _beyond(job.spec.max_tokens)
        follower = self.open(job_id, from_token)
        try:
            position = self._position(job)
            model = job.spec.model
            predicted_ms = self.state.forecast.start_ms(model, position, self.state.fleet)
            accepted = Accepted(job_id, position, predicted_ms, is_repeated=True)
            await self.follow(follower, job_id, context, accepted)
        finally:
            self.close(follower, job_id)

    async def follow(
        self, follower: Follower, job_id: JobId, context: Context, accepted: Accepted
    ) -> None:
        """Send `queued`, and then everything that the follower sees, up to the terminal event."""
        job = self.state.jobs[job_id]
        position, start_ms = accepted.position, accepted.predicted_start_ms
        budget, prediction = budget_of(self.state, job.spec), self._prediction(job, accepted)
        await context.write(queued_event(job_id, position, start_ms, budget, prediction))
        shown: job_pb2.JobEvent | None = None
        while True:
            for item in follower.take():
                if await self._send(item, job, follower, context):
                    return
            waits = job.state is JobState.QUEUED
            is_news = await follower.wait(limits.PROGRESS_INTERVAL_MS if waits else None)
            # Only after an interval in which nothing else was told: at most once in it, however often a job is woken.
            if waits and not is_news and job.state is JobState.QUEUED:
                progress = self.waiting.progress(job)
                if progress != shown:
                    await context.write(progress)
                    shown = progress

    async def _send(self, item: FeedItem, job: Job, follower: Follower, context: Context) -> bool:
        """Send one item; return whether it was the last."""
        match item:
            case Frame():
                await context.write(tokens_event(job.job_id, item))
                return False
            case AttemptStarted():
                await context.write(started_event(job.job_id, item))
                return False
            case FeedClosed(refused):
                raise RpcRefusal(refused)
            case _:
                _check_place(job, follower.index)
                await context.write(ending_event(job, budget_of(self.state, job.spec)))
                return True

    def _prediction(self, job: Job, accepted: Accepted) -> Prediction | None:
        """What is expected of a job: as it was said at acceptance, or anew for whoever comes later."""
        if accepted.is_repeated:
            if job.job_id not in self.state.queue:
                return None
            spec, fleet = job.spec, self.state.fleet
            return self.state.forecast.predict(spec.model, accepted.position, spec, fleet)
        return job.estimate.prediction if job.estimate is not None else None

    def _position(self, job: Job) -> int:
        return self.state.queue.position(job) if job.job_id in self.state.queue else 0

    async def _replay(self, job_id: JobId, from_token: int, context: Context) -> None:
        """Send an ended job from the store."""
        await self.settled()
        row = await self.reader.job(job_id)
        if row is None:
            raise refuse(
                Refusal.JOB_NOT_FOUND,
                "there is no such job, or it ended so long ago that it was forgotten",
            )
        job = job_of(row, self.clock.now())
        _check_place(job, from_token)
        log = await self._piece(job, from_token)
        await context.write(queued_event(job_id, 0, 0))
        if job.decision is not None and job.attempt:
            # Of all attempts the store remembers the last; where and on which device it ran, it does not.
            await context.write(started_event(job_id, _last_attempt(job, job.decision)))
        index = from_token
        while index < job.next_index:
            reader = log.reader(index)
            while (frame := reader.take()) is not None:
                await context.write(tokens_event(job_id, frame))
            index = log.next_index
            log = await self._piece(job, index)
        await context.write(ending_event(job))

    async def _piece(self, job: Job, index: int) -> TokenLog:
        """Return some of an ended job's output from a token on: whoever does not read holds no more than that.

        Raises:
            RpcRefusal: RESUME_OFFSET_GONE.
        """
        if index >= job.next_index:
            return TokenLog(index)
        rows = await self.reader.tokens(
            job.job_id, from_index=index, rows_max=limits.REPLAYED_ROWS_MAX
        )
        if not rows or rows[0].first_index > index:
            message = "the output of this job is no longer kept"
            raise refuse(
                Refusal.RESUME_OFFSET_GONE, message, metadata={"first_index": str(job.next_index)}
            )
        log = TokenLog(rows[0].first_index)
        for row in rows:
            log.append(frame_of(row))
        return log


def _last_attempt(job: Job, decision: Decision) -> AttemptStarted:
    return AttemptStarted(
        first_index=0,
        epoch=job.epoch,
        worker_id=decision.worker_id,
        worker_address="",
        model=job.spec.model,
        device="",
        attempt=job.attempt,
        policy_version=decision.policy_version,
        decision=decision.summary,
    )


def _check_place(job: Job, from_token: int) -> None:
    """Refuse a place that an ended job's answer cannot have reached.

    An answer that was cut short may have been told further than it was kept, by a queen that died before it had saved
    the last of it: whoever holds that much wants to know how the job ended.

    Raises:
        RpcRefusal: RESUME_OFFSET_GONE.
    """
    is_whole = job.state is JobState.COMPLETED
    if from_token > (job.next_index if is_whole else job.spec.max_tokens):
        raise _beyond(job.next_index)


def _beyond(next_index: int) -> RpcRefusal:
    return refuse(
        Refusal.RESUME_OFFSET_GONE,
        f"from_token lies beyond the end: the answer has {next_index} tokens",
        field="from_token",
        metadata={"next_index": str(next_index)},
    )
