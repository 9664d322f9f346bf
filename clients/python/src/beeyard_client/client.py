"""The typed async client of a queen: submit, follow, look, cancel.

What is about policies is in `policy_calls.py`, about heavy work in `work_calls.py`, about what has ended in
`history_calls.py`.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Unpack

from beeyard.queen.v1 import fleet_service_pb2 as fleet_pb
from beeyard.queen.v1 import fleet_service_pb2_grpc as fleet_rpc
from beeyard.queen.v1 import inference_service_pb2 as inference_pb
from beeyard.queen.v1 import inference_service_pb2_grpc as inference_rpc

from beeyard_client import fleet_wire, limits, wire
from beeyard_client.connection import DEFAULT_QUEEN
from beeyard_client.errors import BeeyardError
from beeyard_client.fleet import Fleet, Model, Pool, Tenant, Worker
from beeyard_client.history_calls import HistoryCalls
from beeyard_client.job import (
    Explanation,
    Job,
    JobOptions,
    JobRequest,
    JobState,
    JobTimeline,
    Message,
)
from beeyard_client.policy_calls import PolicyCalls
from beeyard_client.resume import Cursor, Patience
from beeyard_client.scale import ModelScale, Scale
from beeyard_client.stream import EventCall, JobStream
from beeyard_client.tracing import Metadata, Untraced, start_trace
from beeyard_client.work_calls import WorkCalls

__all__ = ["DEFAULT_QUEEN", "BeeyardClient"]


class BeeyardClient(PolicyCalls, WorkCalls, HistoryCalls):
    """A connection to one queen; use it as an async context manager, from one event loop.

    ```python
    async with BeeyardClient("127.0.0.1:7700") as client:
        async for event in client.infer("The honey bee", max_tokens=32):
            print(event)
    ```

    Every method raises `BeeyardError`, with the reason that the queen gave. Requests that no queen judged, because
    the link broke, are tried again for `connect_patience_ms`; each carries an idempotency key or changes nothing.
    """

    def infer(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] = (),
        **options: Unpack[JobOptions],
    ) -> JobStream:
        """Submit a job and follow it; sent with the first iteration.

        Args:
            prompt: The text to continue; exactly one of `prompt` and `messages` is given.
            messages: The conversation to answer.
            **options: See `JobRequest`.

        Returns:
            The job's events. They go on over broken connections, until the deadline if there is one.

        Raises:
            BeeyardError: `INVALID_REQUEST` for what no message can carry; all other refusals come with the iteration.
        """
        job = self._request(prompt, messages, options)
        message = wire.infer_request(job)
        trace = start_trace(self._tracer_provider, job)

        def open_call(cursor: Cursor, patience: Patience) -> EventCall:
            if cursor.job_id:
                return self._watch_call(cursor, patience, trace.metadata())
            return self._inference().Infer(
                message,
                timeout=patience.remaining_ms(limits.STREAM_DEADLINE_MS) / 1000,
                metadata=trace.metadata(),
            )

        async def cancel_job(cursor: Cursor) -> Job:
            job_id = cursor.job_id
            if not job_id:
                submit = wire.submit_request(job)
                job_id = (await self._ask(self._inference().SubmitJob, submit)).job_id
            return await self.cancel(job_id)

        deadline_ms = job.deadline_ms + limits.DEADLINE_MARGIN_MS if job.deadline_ms > 0 else 0
        return JobStream(
            open_call=open_call,
            cancel_job=cancel_job,
            cursor=Cursor(),
            patience=Patience(
                self._pauses, quiet_ms=self._connect_patience_ms, deadline_ms=deadline_ms
            ),
            trace=trace,
            request_id=job.request_id,
            address=self.queen,
        )

    def watch(self, job_id: str, from_token: int = 0) -> JobStream:
        """Follow an existing job from a token index on; may be called for ended jobs too.

        Args:
            job_id: The job.
            from_token: How many tokens the caller already has.

        Returns:
            The job's events from there.
        """

        def open_call(cursor: Cursor, patience: Patience) -> EventCall:
            return self._watch_call(cursor, patience, ())

        async def cancel_job(cursor: Cursor) -> Job:
            return await self.cancel(cursor.job_id)

        return JobStream(
            open_call=open_call,
            cancel_job=cancel_job,
            cursor=Cursor(job_id=job_id, next_index=from_token),
            patience=Patience(self._pauses, quiet_ms=self._connect_patience_ms),
            trace=Untraced(),
            address=self.queen,
        )

    async def submit(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[Message] = (),
        **options: Unpack[JobOptions],
    ) -> Job:
        """Submit a job and return it once it is durable.

        Args:
            prompt: The text to continue; exactly one of `prompt` and `messages` is given.
            messages: The conversation to answer.
            **options: See `JobRequest`.

        Returns:
            The accepted job.
        """
        job = self._request(prompt, messages, options)
        trace = start_trace(self._tracer_provider, job)
        try:
            answer = await self._ask(
                self._inference().SubmitJob, wire.submit_request(job), trace.metadata()
            )
        except BeeyardError as error:
            trace.end(error)
            raise
        finally:
            trace.end()
        return wire.job(answer)

    async def get(self, job_id: str) -> Job:
        """Return one job; `JOB_NOT_FOUND` if there is none."""
        request = inference_pb.GetJobRequest(job_id=job_id)
        return wire.job(await self._ask(self._inference().GetJob, request))

    async def list_jobs(
        self,
        *,
        states: Sequence[JobState] = (),
        tenant_id: str = "",
        model: str = "",
        page_size: int = 0,
    ) -> AsyncIterator[Job]:
        """Yield jobs, newest first, page by page as they are asked for.

        Args:
            states: Only jobs in one of these states; empty: any.
            tenant_id: Only jobs of this tenant; empty: any.
            model: Only jobs for this model; empty: any.
            page_size: Jobs a request, 1 to 1000; 0: the queen's choice.

        Yields:
            Each job once.
        """
        page_token = ""
        while True:
            request = inference_pb.ListJobsRequest(
                page_size=page_size,
                page_token=page_token,
                states=wire.states_to_wire(tuple(states)),
                tenant_id=tenant_id,
                model=model,
            )
            page = await self._ask(self._inference().ListJobs, request)
            for one in page.jobs:
                yield wire.job(one)
            # A queen that gives the same token again would keep us here for ever.
            if not page.next_page_token or page.next_page_token == page_token:
                return
            page_token = page.next_page_token

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job and return it; an ended job is returned as it is."""
        request = inference_pb.CancelJobRequest(job_id=job_id)
        return wire.job(await self._ask(self._inference().CancelJob, request))

    async def explain(self, job_id: str) -> Explanation:
        """Say why a job waits, or why it ran where it ran."""
        request = inference_pb.ExplainJobRequest(job_id=job_id)
        return wire.explanation(await self._ask(self._inference().ExplainJob, request))

    async def timeline(self, job_id: str) -> JobTimeline:
        """Return the phases of a job with their times: a trace that needs no collector."""
        request = inference_pb.GetJobTimelineRequest(job_id=job_id)
        return wire.job_timeline(await self._ask(self._inference().GetJobTimeline, request))

    async def pools(self) -> tuple[Pool, ...]:
        """Return the hosts that have reported, by id."""
        answer = await self._ask(self._fleet().ListPools, fleet_pb.ListPoolsRequest())
        return tuple(fleet_wire.pool(one) for one in answer.pools)

    async def workers(self, *, pool_id: str = "", model: str = "") -> tuple[Worker, ...]:
        """Return the workers by id, of one pool or of one model if that is asked."""
        request = fleet_pb.ListWorkersRequest(pool_id=pool_id, model=model)
        answer = await self._ask(self._fleet().ListWorkers, request)
        return tuple(fleet_wire.worker(one) for one in answer.workers)

    async def models(self) -> tuple[Model, ...]:
        """Return every model that some pool or worker offers, by name."""
        answer = await self._ask(self._fleet().ListModels, fleet_pb.ListModelsRequest())
        return tuple(fleet_wire.model(one) for one in answer.models)

    async def model_scales(self, model: str = "") -> tuple[ModelScale, ...]:
        """Return how many workers each model should have and has, by name; of one model only, if it is named."""
        request = fleet_pb.ListModelScalesRequest(model=model)
        answer = await self._ask(self._fleet().ListModelScales, request)
        return tuple(fleet_wire.model_scale(one) for one in answer.model_scales)

    async def scale_model(self, model: str, scale: Scale | None) -> ModelScale:
        """Say how many workers of a model there should be from now on; None: what the queen's file says again."""
        request = fleet_pb.SetModelScaleRequest(
            model=model, scale=None if scale is None else fleet_wire.scale_of(scale)
        )
        answer = await self._ask(self._fleet().SetModelScale, request)
        return fleet_wire.model_scale(answer.model_scale)

    async def tenants(self) -> tuple[Tenant, ...]:
        """Return tenants with what they may have and what they have now, by id."""
        answer = await self._ask(self._fleet().ListTenants, fleet_pb.ListTenantsRequest())
        return fleet_wire.tenants(answer)

    async def start_worker(self, model: str, *, pool_id: str = "", request_id: str = "") -> str:
        """Ask for one more worker of a model; the pool starts it soon after.

        Args:
            model: The model that it should hold.
            pool_id: The pool that it should run on; empty: the queen chooses.
            request_id: Idempotency key; empty: one is drawn.

        Returns:
            The id that the worker will have.
        """
        request = fleet_pb.StartWorkerRequest(
            model=model, pool_id=pool_id, request_id=request_id or self._new_id()
        )
        return (await self._ask(self._fleet().StartWorker, request)).worker_id

    async def watch_fleet(self, min_interval_ms: int = 0) -> AsyncGenerator[Fleet, None]:
        """Yield the whole fleet at once and again after each change.

        Args:
            min_interval_ms: Least time between two, milliseconds, 100 to 60000; 0: 1000.

        Yields:
            Snapshots, for as long as the connection holds; a break raises, since the next one tells everything again.
        """
        request = fleet_pb.WatchFleetRequest(min_interval_ms=min_interval_ms)
        async with aclosing(self._follow(self._fleet().WatchFleet, request)) as snapshots:
            async for snapshot in snapshots:
                yield fleet_wire.fleet(snapshot)

    def _request(
        self, prompt: str | None, messages: Sequence[Message], options: JobOptions
    ) -> JobRequest:
        # Every submission has a key, so that one whose answer was lost can be sent again.
        options["request_id"] = options.get("request_id") or self._new_id()
        return JobRequest(prompt=prompt, messages=messages, **options)

    def _watch_call(self, cursor: Cursor, patience: Patience, metadata: Metadata) -> EventCall:
        return self._inference().WatchJob(
            inference_pb.WatchJobRequest(job_id=cursor.job_id, from_token=cursor.next_index),
            timeout=patience.remaining_ms(limits.STREAM_DEADLINE_MS) / 1000,
            metadata=metadata,
        )

    def _inference(self) -> "inference_rpc.InferenceServiceAsyncStub":
        return inference_rpc.InferenceServiceStub(self._open_channel())

    def _fleet(self) -> "fleet_rpc.FleetServiceAsyncStub":
        return fleet_rpc.FleetServiceStub(self._open_channel())
