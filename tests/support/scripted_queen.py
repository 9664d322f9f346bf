"""A queen that says what a test wrote down, over real gRPC.

Each call takes the next script of its method: a list of messages to send and, at its end, how the call ends. What was
asked is kept in `asked`, so that a test can look at it.
"""
# ruff: noqa: N802  gRPC names the methods

import asyncio
import dataclasses
from collections import deque
from collections.abc import AsyncIterator, Sequence

import grpc
from beeyard.pool.v1 import snapshot_pb2
from beeyard.queen.v1 import fleet_service_pb2 as fleet_pb
from beeyard.queen.v1 import fleet_service_pb2_grpc as fleet_rpc
from beeyard.queen.v1 import history_service_pb2 as history_pb
from beeyard.queen.v1 import history_service_pb2_grpc as history_rpc
from beeyard.queen.v1 import inference_service_pb2 as inference_pb
from beeyard.queen.v1 import inference_service_pb2_grpc as inference_rpc
from beeyard.queen.v1 import job_pb2
from beeyard.worker.v1 import engine_service_pb2, generation_pb2
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

JOB_ID = "job-1"

Context = grpc.aio.ServicerContext[Message, Message]


@dataclasses.dataclass
class Refuse:
    """End the call with an error; without a reason it carries no details, as a broken link gives."""

    code: grpc.StatusCode
    reason: str = ""
    message: str = "no"
    retry_after_ms: int | None = None
    field: str = ""
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Hang:
    """Keep the call open until the client ends it, and note that it did."""

    left: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)


@dataclasses.dataclass
class Until:
    """Say nothing more, and do not end the call, until this is set."""

    event: asyncio.Event


Script = Sequence[job_pb2.JobEvent | Refuse | Hang | Until]


def queued(position: int = 0) -> job_pb2.JobEvent:
    return job_pb2.JobEvent(job_id=JOB_ID, queued=job_pb2.JobQueued(position=position))


def started(attempt: int = 1) -> job_pb2.JobEvent:
    return job_pb2.JobEvent(
        job_id=JOB_ID,
        started=job_pb2.JobStarted(
            worker_id=f"w-{attempt}",
            worker_address="127.0.0.1:1",
            model="tiny",
            device="cpu",
            attempt=attempt,
            policy_version="first@1",
            decision="least loaded of 1",
        ),
    )


def tokens(first_index: int, *texts: str) -> job_pb2.JobEvent:
    return job_pb2.JobEvent(
        job_id=JOB_ID,
        tokens=generation_pb2.TokenChunk(
            first_index=first_index,
            ids=range(first_index, first_index + len(texts)),
            text="".join(texts),
            count=len(texts),
        ),
    )


def progress(stage: str, fraction: float = 0.0, message: str = "") -> job_pb2.JobEvent:
    told = job_pb2.JobProgress(stage=stage, fraction=fraction, message=message)
    return job_pb2.JobEvent(job_id=JOB_ID, progress=told)


def finished(completion_tokens: int = 3) -> job_pb2.JobEvent:
    return job_pb2.JobEvent(
        job_id=JOB_ID,
        finished=job_pb2.JobFinished(
            reason=generation_pb2.FINISH_REASON_LENGTH,
            usage=generation_pb2.Usage(prompt_tokens=4, completion_tokens=completion_tokens),
            timings=generation_pb2.Timings(
                queue_ms=2.0, first_token_ms=30.0, total_ms=90.0, tokens_per_s=50.0
            ),
        ),
    )


def failed(reason: str = "ATTEMPTS_EXHAUSTED") -> job_pb2.JobEvent:
    told = job_pb2.JobFailed(
        reason=reason, retriable=True, retry_after_ms=500, message="every attempt broke"
    )
    return job_pb2.JobEvent(job_id=JOB_ID, failed=told)


def cancelled() -> job_pb2.JobEvent:
    return job_pb2.JobEvent(job_id=JOB_ID, cancelled=job_pb2.JobCancelled())


def a_job(job_id: str = JOB_ID, **fields: object) -> job_pb2.Job:
    job = job_pb2.Job(
        job_id=job_id,
        model="tiny",
        priority=job_pb2.PRIORITY_NORMAL,
        state=job_pb2.JOB_STATE_COMPLETED,
        attempt=1,
        max_attempts=3,
        worker_id="w-1",
        seed=7,
        policy_version="first@1",
        trace_id="0af7651916cd43dd8448eb211c80319c",
    )
    job.create_time.FromJsonString("2026-11-20T12:00:00Z")
    for name, value in fields.items():
        setattr(job, name, value)
    return job


def a_worker() -> fleet_pb.Worker:
    return fleet_pb.Worker(
        status=engine_service_pb2.EngineStatus(
            worker_id="w-1",
            model="tiny",
            engine="synthetic",
            device="cpu",
            state=engine_service_pb2.WORKER_STATE_READY,
            load_progress=1.0,
            slots_total=4,
            slots_free=4,
        ),
        pool_id="pool-1",
        attached=True,
    )


def a_pool() -> fleet_pb.Pool:
    device = snapshot_pb2.Device(
        uuid="cpu",
        kind=snapshot_pb2.DEVICE_KIND_CPU,
        name="A processor",
        vram_total_bytes=8 << 30,
        vram_used_bytes=2 << 30,
        vram_free_bytes=6 << 30,
    )
    snapshot = snapshot_pb2.HostSnapshot(pool_id="pool-1", devices=[device], inventory="cpu")
    return fleet_pb.Pool(pool_id="pool-1", fresh=True, snapshot=snapshot)


class ScriptedQueen(
    inference_rpc.InferenceServiceServicer,
    fleet_rpc.FleetServiceServicer,
    history_rpc.HistoryServiceServicer,
):
    """Some services of a queen, played from scripts."""

    def __init__(self) -> None:
        self.infer: deque[Script] = deque()
        self.watch: deque[Script] = deque()
        self.submit: deque[Refuse] = deque()
        self.jobs: list[job_pb2.Job] = [a_job()]
        self.get_refusal: Refuse | None = None
        self.models = [fleet_pb.FleetModel(model="tiny", pool_ids=["pool-1"], workers_ready=1)]
        self.scales = [
            fleet_pb.ModelScale(
                model="tiny",
                scale=fleet_pb.Scale(min_workers=1, keep_warm_ms=1_500),
                source=fleet_pb.SCALE_SOURCE_FILE,
                workers_ready=2,
            )
        ]
        self.pools = [a_pool()]
        self.workers = [a_worker()]
        self.asked: list[Message] = []
        self.metadata: list[dict[str, str]] = []

    async def Infer(
        self, request: inference_pb.InferRequest, context: Context
    ) -> AsyncIterator[job_pb2.JobEvent]:
        self._note(request, context)
        async for event in _play(self.infer.popleft(), context):
            yield event

    async def WatchJob(
        self, request: inference_pb.WatchJobRequest, context: Context
    ) -> AsyncIterator[job_pb2.JobEvent]:
        self._note(request, context)
        async for event in _play(self.watch.popleft(), context):
            yield event

    async def SubmitJob(
        self, request: inference_pb.SubmitJobRequest, context: Context
    ) -> job_pb2.Job:
        self._note(request, context)
        if self.submit:
            await _refuse(self.submit.popleft(), context)
        return a_job(state=job_pb2.JOB_STATE_QUEUED)

    async def GetJob(self, request: inference_pb.GetJobRequest, context: Context) -> job_pb2.Job:
        self._note(request, context)
        if self.get_refusal is not None:
            await _refuse(self.get_refusal, context)
        found = [job for job in self.jobs if job.job_id == request.job_id]
        if not found:
            await _refuse(
                Refuse(grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND", "no such job"), context
            )
        return found[0]

    async def ListJobs(
        self, request: inference_pb.ListJobsRequest, context: Context
    ) -> inference_pb.ListJobsResponse:
        self._note(request, context)
        begin = int(request.page_token or 0)
        end = begin + (request.page_size or 50)
        more = str(end) if end < len(self.jobs) else ""
        return inference_pb.ListJobsResponse(jobs=self.jobs[begin:end], next_page_token=more)

    async def CancelJob(
        self, request: inference_pb.CancelJobRequest, context: Context
    ) -> job_pb2.Job:
        self._note(request, context)
        return a_job(request.job_id, state=job_pb2.JOB_STATE_CANCELLED)

    async def ExplainJob(
        self, request: inference_pb.ExplainJobRequest, context: Context
    ) -> inference_pb.JobExplanation:
        self._note(request, context)
        return inference_pb.JobExplanation(
            job=a_job(request.job_id),
            summary="it ran on the only worker",
            candidates=[
                inference_pb.Candidate(worker_id="w-1", pool_id="pool-1", chosen=True),
                inference_pb.Candidate(
                    worker_id="w-2",
                    excluded_by="WORKER_BUSY",
                    detail="0 of 4",
                    predicted_end_ms=2_500.0,
                ),
            ],
            remedy=inference_pb.Remedy(
                kind=inference_pb.Remedy.KIND_SLOTS,
                amount=1,
                target_id="w-2",
                pool_id="pool-1",
                message="worker w-2 had one slot more",
            ),
            other_remedies=[
                inference_pb.Remedy(
                    kind=inference_pb.Remedy.KIND_EARLIER,
                    amount=14_000,
                    target_id="w-2",
                    pool_id="pool-1",
                    message="it had come 14 s earlier, when worker w-2 had a slot free",
                )
            ],
            leases=[
                inference_pb.LeaseRecord(
                    lease_id="lease-7",
                    worker_id="w-1",
                    attempt=1,
                    ending="expired",
                    was_revoked=True,
                )
            ],
        )

    async def GetJobTimeline(
        self, request: inference_pb.GetJobTimelineRequest, context: Context
    ) -> inference_pb.JobTimeline:
        self._note(request, context)
        told = inference_pb.JobTimeline(job=a_job(request.job_id))
        for name, begin_ms, end_ms, attributes in (
            ("queue.wait", 0, 400, {}),
            ("policy.decide", 400, 400, {"beeyard.policy.version": "mine@3"}),
            ("lease", 400, 1_000, {"beeyard.worker.id": "w-1", "state": "completed"}),
            ("prefill", 400, 500, {}),
            ("decode", 500, None, {}),
        ):
            span = told.spans.add(name=name, attempt=1, attributes=attributes)
            span.begin_time.FromMilliseconds(1_790_000_000_000 + begin_ms)
            if end_ms is not None:
                span.end_time.FromMilliseconds(1_790_000_000_000 + end_ms)
        return told

    async def ListPools(
        self, request: fleet_pb.ListPoolsRequest, context: Context
    ) -> fleet_pb.ListPoolsResponse:
        return fleet_pb.ListPoolsResponse(pools=self.pools)

    async def ListWorkers(
        self, request: fleet_pb.ListWorkersRequest, context: Context
    ) -> fleet_pb.ListWorkersResponse:
        self._note(request, context)
        return fleet_pb.ListWorkersResponse(workers=self.workers)

    async def GetJobStatistics(
        self, request: history_pb.GetJobStatisticsRequest, context: Context
    ) -> history_pb.JobStatistics:
        self._note(request, context)
        wait = history_pb.Spans(n=9, mean_ms=120.0, p50_ms=100.0, p95_ms=1_250.0, p99_ms=2_000.0)
        group = history_pb.JobGroup(
            name="ann", jobs=10, completed=8, failed=1, cancelled=1, success_rate=8 / 9, wait=wait
        )
        told = history_pb.JobStatistics(everything=group, groups=[group], is_truncated=True)
        told.everything.name = ""
        told.oldest_end_time.FromSeconds(1_700_000_000)
        return told

    async def GetForecastReport(
        self, request: history_pb.GetForecastReportRequest, context: Context
    ) -> history_pb.ForecastReport:
        self._note(request, context)
        score = history_pb.ForecastScore(
            n=100, coverage=0.89, shares=[0.05, 0.94], width_p50_ms=1_500.0, error_p95_ms=3_000.0
        )
        return history_pb.ForecastReport(
            promised_coverage=0.9, levels=[0.05, 0.95], end=score, unpredicted=3, is_truncated=True
        )

    async def ListTenants(
        self, request: fleet_pb.ListTenantsRequest, context: Context
    ) -> fleet_pb.ListTenantsResponse:
        quota = fleet_pb.Quota(concurrent_jobs=2, requests_per_second=0.5, session_tokens=9_000)
        tenant = fleet_pb.Tenant(
            tenant_id="ann",
            quota=quota,
            jobs_unfinished=1,
            tokens_total=30,
            requests_total=4,
            exceeded={"concurrent_jobs": 3},
        )
        return fleet_pb.ListTenantsResponse(tenants=[tenant], enforced=True)

    async def ListModelScales(
        self, request: fleet_pb.ListModelScalesRequest, context: Context
    ) -> fleet_pb.ListModelScalesResponse:
        self._note(request, context)
        return fleet_pb.ListModelScalesResponse(model_scales=self.scales)

    async def SetModelScale(
        self, request: fleet_pb.SetModelScaleRequest, context: Context
    ) -> fleet_pb.SetModelScaleResponse:
        self._note(request, context)
        now = fleet_pb.ModelScale(
            model=request.model, scale=request.scale, source=fleet_pb.SCALE_SOURCE_RUN_TIME
        )
        return fleet_pb.SetModelScaleResponse(model_scale=now)

    async def ListModels(
        self, request: fleet_pb.ListModelsRequest, context: Context
    ) -> fleet_pb.ListModelsResponse:
        return fleet_pb.ListModelsResponse(models=self.models)

    async def WatchFleet(
        self, request: fleet_pb.WatchFleetRequest, context: Context
    ) -> AsyncIterator[fleet_pb.FleetSnapshot]:
        self._note(request, context)
        for version in (1, 2):
            yield fleet_pb.FleetSnapshot(
                version=version, pools=self.pools, workers=self.workers, jobs_queued=version
            )

    async def StartWorker(
        self, request: fleet_pb.StartWorkerRequest, context: Context
    ) -> fleet_pb.StartWorkerResponse:
        self._note(request, context)
        return fleet_pb.StartWorkerResponse(worker_id="w-2", pool_id="pool-1")

    async def StopWorker(
        self, request: fleet_pb.StopWorkerRequest, context: Context
    ) -> fleet_pb.StopWorkerResponse:
        self._note(request, context)
        return fleet_pb.StopWorkerResponse()

    async def DrainWorker(
        self, request: fleet_pb.DrainWorkerRequest, context: Context
    ) -> fleet_pb.DrainWorkerResponse:
        self._note(request, context)
        return fleet_pb.DrainWorkerResponse()

    def kinds_asked(self) -> list[str]:
        """The names of the messages that came, in order."""
        return [type(one).__name__ for one in self.asked]

    def _note(self, request: Message, context: Context) -> None:
        self.asked.append(request)
        pairs = context.invocation_metadata() or ()
        self.metadata.append({key: value for key, value in pairs if isinstance(value, str)})


async def _play(script: Script, context: Context) -> AsyncIterator[job_pb2.JobEvent]:
    for step in script:
        match step:
            case Refuse():
                await _refuse(step, context)
            case Hang(left):
                try:
                    await _until_cancelled()
                finally:
                    left.set()
            case Until(event):
                await event.wait()
            case _:
                yield step


async def _until_cancelled() -> None:
    await asyncio.Event().wait()


async def _refuse(refuse: Refuse, context: Context) -> None:
    if not refuse.reason:
        await context.abort(refuse.code, refuse.message)
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=refuse.reason, domain="beeyard", metadata=refuse.metadata
        )
    ]
    if refuse.retry_after_ms is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(refuse.retry_after_ms)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if refuse.field:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=refuse.field, description=refuse.message
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    status = rpc_status.to_status(
        status_pb2.Status(
            code=code_pb2.Code.Value(refuse.code.name), message=refuse.message, details=packed
        )
    )
    context.set_trailing_metadata(status.trailing_metadata)
    await context.abort(refuse.code, refuse.message, status.trailing_metadata)


async def serve(queen: ScriptedQueen, address: str = "127.0.0.1:0") -> tuple[grpc.aio.Server, str]:
    """Return the running server and its address."""
    server = grpc.aio.server()
    inference_rpc.add_InferenceServiceServicer_to_server(queen, server)
    fleet_rpc.add_FleetServiceServicer_to_server(queen, server)
    history_rpc.add_HistoryServiceServicer_to_server(queen, server)
    port = server.add_insecure_port(address)
    await server.start()
    return server, f"127.0.0.1:{port}"
