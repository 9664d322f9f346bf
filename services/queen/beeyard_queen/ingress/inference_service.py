"""Hosts `InferenceService`: submit, follow, look, cancel, explain.

Streams are written with `context.write`, which is why their methods return nothing; the generated base class only knows
generators.
"""

import asyncio
from typing import TypeAlias

import grpc
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import inference_service_pb2_grpc, job_pb2
from beeyard_core import limits
from beeyard_core.event import CancelRequested
from beeyard_core.ids import JobId
from beeyard_core.job import Job
from beeyard_core.refusal import Refusal
from beeyard_runtime.clock import Clock
from beeyard_runtime.rpc_errors import refuse
from beeyard_runtime.security.callers import current
from google.protobuf.message import Message

from beeyard_queen.actor import Answers
from beeyard_queen.egress.feed import Feeds
from beeyard_queen.ingress.explaining import Explaining
from beeyard_queen.ingress.following import Following
from beeyard_queen.ingress.paging import number_of, page_size_of, token_of
from beeyard_queen.ingress.request import refuse_unknown_fields
from beeyard_queen.ingress.submission import Submissions
from beeyard_queen.ingress.timeline_wire import timeline_message
from beeyard_queen.ingress.wire import JOB_STATES, budget_of, wire_job_of
from beeyard_queen.loop import WriterLoop
from beeyard_queen.store.port import JobFilter, JobReader, JobRow
from beeyard_queen.store.rows import job_of

Context: TypeAlias = "grpc.aio.ServicerContext[Message, Message]"


class InferenceServicer(inference_service_pb2_grpc.InferenceServiceServicer):
    """Inference for clients."""

    def __init__(
        self,
        *,
        loop: WriterLoop,
        reader: JobReader,
        submissions: Submissions,
        following: Following,
        feeds: Feeds,
        answers: Answers,
        explaining: Explaining,
        clock: Clock,
    ) -> None:
        """Serve clients over the parts that the composition root made."""
        self._loop = loop
        self._reader = reader
        self._submissions = submissions
        self._following = following
        self._feeds = feeds
        self._answers = answers
        self._explaining = explaining
        self._clock = clock

    async def Infer(self, request: pb.InferRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        """Submit a job and follow it to its end."""
        job_id = self._submissions.new_job_id()
        # The follower is there before the job is: a job may end before this call is told that it was accepted.
        follower = self._following.open(job_id, 0)
        try:
            accepted = await self._submissions.submit(request, job_id)
            if not accepted.is_repeated:
                await self._following.follow(follower, job_id, context, accepted)
        finally:
            self._following.close(follower, job_id)
        if accepted.is_repeated:
            await self._following.watch(accepted.job_id, 0, context)

    async def SubmitJob(  # noqa: N802
        self, request: pb.SubmitJobRequest, context: Context
    ) -> job_pb2.Job:
        """Submit a job."""
        accepted = await self._submissions.submit(request, self._submissions.new_job_id())
        position = None if accepted.is_repeated else accepted.position
        return await self._wire_job(accepted.job_id, position=position)

    async def WatchJob(self, request: pb.WatchJobRequest, context: Context) -> None:  # type: ignore[override]  # noqa: N802
        """Follow a job from a token index on."""
        refuse_unknown_fields(request)
        if not 0 <= request.from_token <= limits.MAX_TOKENS_LIMIT:
            message = f"from_token must be 0 to {limits.MAX_TOKENS_LIMIT}"
            raise refuse(Refusal.INVALID_REQUEST, message, field="from_token")
        job_id = await self._own(request.job_id)
        await self._following.watch(job_id, request.from_token, context)

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> job_pb2.Job:  # noqa: N802
        """Return one job."""
        refuse_unknown_fields(request)
        return await self._wire_job(await self._own(request.job_id))

    async def ListJobs(  # noqa: N802
        self, request: pb.ListJobsRequest, context: Context
    ) -> pb.ListJobsResponse:
        """List jobs, newest first."""
        refuse_unknown_fields(request)
        size = page_size_of(request.page_size)
        job_filter = JobFilter(
            states=tuple(_state_of(number) for number in request.states if number),
            tenant_id=request.tenant_id,
            model=request.model,
            before_sequence=number_of(request.page_token),
            limit=size + 1,
        )
        rows = await self._reader.jobs(job_filter)
        more = token_of(rows[size - 1].sequence) if len(rows) > size else ""
        return pb.ListJobsResponse(
            jobs=[self._listed(row) for row in rows[:size]], next_page_token=more
        )

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> job_pb2.Job:  # noqa: N802
        """Cancel a job; return once that is durable."""
        refuse_unknown_fields(request)
        job_id = await self._own(request.job_id)
        job = self._loop.state.jobs.get(job_id)
        if job is not None and not job.is_ended:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._answers.cancellers.setdefault(job_id, []).append(waiter)
            self._loop.post(CancelRequested(job_id))
            await waiter
        else:
            # It may have ended in the batch that is being committed just now.
            await self._loop.settled()
        return await self._wire_job(job_id)

    async def ExplainJob(  # noqa: N802
        self, request: pb.ExplainJobRequest, context: Context
    ) -> pb.JobExplanation:
        """Say why a job waits, or why it ran where it ran."""
        refuse_unknown_fields(request)
        job_id = await self._own(request.job_id)
        wire = await self._wire_job(job_id)
        job = self._loop.state.jobs.get(job_id) or await self._ended(job_id)
        return await self._explaining.explain(job, wire)

    async def GetJobTimeline(  # noqa: N802
        self, request: pb.GetJobTimelineRequest, context: Context
    ) -> pb.JobTimeline:
        """Return the phases of a job with their times."""
        refuse_unknown_fields(request)
        job_id = await self._own(request.job_id)
        wire = await self._wire_job(job_id)
        job = self._loop.state.jobs.get(job_id) or await self._ended(job_id)
        return timeline_message(wire, self._submissions.traces.timelines.spans(job))

    async def _own(self, text: str) -> JobId:
        """Return the job that a request names, if the caller may see it: what is another tenant's is not there.

        Raises:
            RpcRefusal: JOB_NOT_FOUND.
        """
        job_id, call = _job_id(text), current()
        if call.tenant_id is None:
            return job_id
        job = self._loop.state.jobs.get(job_id) or await self._ended(job_id)
        if not call.owns(job.spec.tenant_id):
            raise _not_found()
        return job_id

    async def _wire_job(self, job_id: JobId, *, position: int | None = None) -> job_pb2.Job:
        """Return a job from memory, or from the store.

        Args:
            job_id: Which one.
            position: Jobs before it while it is queued, if the caller knows; otherwise they are counted.

        Raises:
            RpcRefusal: JOB_NOT_FOUND.
        """
        job = self._loop.state.jobs.get(job_id)
        trace_id = self._submissions.traces.trace_id(job_id)
        if job is None or (job.is_ended and not trace_id):
            row = await self._reader.job(job_id)
            if row is not None:
                job, trace_id = job or job_of(row, self._clock.now()), row.trace_id
        if job is None:
            raise _not_found()
        queue = self._loop.state.queue
        if job_id not in queue:
            position = 0
        elif position is None:
            position = queue.position(job)
        feed = self._feeds.by_job.get(job_id)
        state = self._loop.state
        return wire_job_of(
            job,
            position=position,
            next_index=feed.log.next_index if feed else 0,
            trace_id=trace_id,
            budget=budget_of(self._loop.state, job.spec),
            prediction=state.forecast.predict(job.spec.model, position, job.spec, state.fleet)
            if job_id in queue
            else None,
        )

    def _listed(self, row: JobRow) -> job_pb2.Job:
        """Return a listed job: as it is in memory if it is there, since rows of running jobs lag behind."""
        job = self._loop.state.jobs.get(JobId(row.job_id)) or job_of(row, self._clock.now())
        return wire_job_of(job, trace_id=row.trace_id)

    async def _ended(self, job_id: JobId) -> Job:
        row = await self._reader.job(job_id)
        if row is None:
            raise _not_found()
        return job_of(row, self._clock.now())


def _job_id(text: str) -> JobId:
    if not text:
        raise refuse(Refusal.INVALID_REQUEST, "job_id must not be empty", field="job_id")
    if len(text) > limits.ID_BYTES_MAX:
        raise _not_found()
    return JobId(text)


def _not_found() -> Exception:
    return refuse(
        Refusal.JOB_NOT_FOUND, "there is no such job, or it ended so long ago that it was forgotten"
    )


def _state_of(number: "job_pb2.JobState.ValueType") -> str:
    state = JOB_STATES.get(number)
    if state is None:
        raise refuse(Refusal.INVALID_REQUEST, "there is no such job state", field="states")
    return state.value
