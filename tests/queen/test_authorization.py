"""The authorisation matrix of the queen: every method x {no token, wrong role, other tenant, right one}.

The cases come from the table, so a method that is added is here by itself, and one that has to do with tenants fails
until somebody writes down how another tenant would reach for it. What hosts serve is asked of them in
tests/e2e/test_host_authorization.py.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import grpc
import pytest
import pytest_asyncio
from beeyard.queen.v1 import fleet_service_pb2 as fleet_pb
from beeyard.queen.v1 import fleet_service_pb2_grpc as fleet_rpc
from beeyard.queen.v1 import history_service_pb2 as history_pb
from beeyard.queen.v1 import history_service_pb2_grpc as history_rpc
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import inference_service_pb2_grpc as rpc
from beeyard.queen.v1 import lease_service_pb2 as lease_pb
from beeyard.queen.v1 import lease_service_pb2_grpc as lease_rpc
from beeyard.queen.v1 import policy_service_pb2 as policy_pb
from beeyard.queen.v1 import policy_service_pb2_grpc as policy_rpc
from beeyard_runtime.security.authorization import METHODS, TenantRule
from beeyard_runtime.security.callers import Role

from tests.support.attached_worker import attached_worker
from tests.support.lease_requests import report, struct, submission
from tests.support.raw_calls import Outcome, ending_of
from tests.support.running_queen import RunningQueen, running_queen
from tests.support.tokens import Metadata, Tokens, shows
from tests.support.told import refusal

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWN, OTHER, SECRET = "tenant-a", "tenant-b", "canary-of-tenant-a"
KEPT_OUT = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
#: Answers only once something is decided: not being refused for so long means that it was let in.
PATIENT = {"beeyard.queen.v1.PolicyService/WatchDecisions": 1.0}
ELSEWHERE = ("grpc.channelz.", "beeyard.pool.v1.PoolManagerService", "beeyard.worker.v1.Engine")
HOSTED = sorted(name for name in METHODS if not name.startswith(ELSEWHERE))
BOUND = sorted(name for name in HOSTED if METHODS[name].tenant is not TenantRule.NONE)


@dataclass
class As:
    """The queen as one caller reaches it."""

    channel: grpc.aio.Channel
    inference: "rpc.InferenceServiceAsyncStub" = field(init=False)
    fleet: "fleet_rpc.FleetServiceAsyncStub" = field(init=False)
    leases: "lease_rpc.LeaseServiceAsyncStub" = field(init=False)
    history: "history_rpc.HistoryServiceAsyncStub" = field(init=False)

    def __post_init__(self) -> None:
        self.inference = rpc.InferenceServiceStub(self.channel)
        self.fleet = fleet_rpc.FleetServiceStub(self.channel)
        self.history = history_rpc.HistoryServiceStub(self.channel)
        self.leases = lease_rpc.LeaseServiceStub(self.channel)


@dataclass
class Secured:
    """A queen with tokens; a job, a piece of work and a lease of one tenant, and callers of both."""

    queen: RunningQueen
    shown: dict[Role, Metadata]
    own: As
    other: As
    operator: As
    job_id: str = ""
    work_id: str = ""
    lease: lease_pb.Lease = field(default_factory=lease_pb.Lease)

    def claim(self) -> dict[str, object]:
        lease = self.lease
        return {"lease_id": lease.lease_id, "epoch": lease.epoch, "worker_id": lease.worker_id}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    file = Tokens(tmp_path_factory.mktemp("tokens") / "tokens.json")
    tokens = {
        Role.CLIENT: file.add("client", Role.CLIENT, tenant_id=OWN),
        Role.OPERATOR: file.add("operator", Role.OPERATOR),
        Role.POOL: file.add("pool", Role.POOL, pool_id="none"),
        Role.WORKER: file.add("worker", Role.WORKER, pool_id="none"),
        Role.ADMIN: file.add("admin", Role.ADMIN),
        Role.MONITOR: file.add("monitor", Role.MONITOR),
    }
    own = file.add("own", Role.CLIENT, Role.WORKER, tenant_id=OWN)
    other = file.add("other", Role.CLIENT, Role.WORKER, tenant_id=OTHER)
    async with AsyncExitStack() as stack:
        queen = await stack.enter_async_context(running_queen(tokens=file.path))

        await stack.enter_async_context(
            attached_worker(await queen.channel_as(tokens[Role.WORKER], stack))
        )
        made = Secured(
            queen,
            {role: shows(token) for role, token in tokens.items()},
            As(await queen.channel_as(own, stack)),
            As(await queen.channel_as(other, stack)),
            As(await queen.channel_as(tokens[Role.OPERATOR], stack)),
        )
        request = pb.SubmitJobRequest(model="tiny", prompt="bee", labels={"who": SECRET})
        made.job_id = (await made.own.inference.SubmitJob(request)).job_id
        payload = struct(secret=SECRET)
        made.work_id = (await made.own.leases.SubmitWork(submission(payload=payload))).work_id
        await report(queen)
        answer = await made.own.leases.RequestLease(lease_pb.RequestLeaseRequest(worker_id="h1"))
        made.lease = answer.granted.lease
        yield made


async def ending(queen: RunningQueen, name: str, shown: Metadata) -> grpc.StatusCode:
    """Call a method with an empty message; return how that ends."""
    return await ending_of(queen.channel, name, b"", shown, PATIENT.get(name, 20.0))


@pytest.mark.parametrize("name", HOSTED)
async def test_a_method_is_for_its_roles_and_for_nobody_else(secured: Secured, name: str) -> None:
    row, queen = METHODS[name], secured.queen
    if row.roles is None:
        assert await ending(queen, name, ()) not in KEPT_OUT
        return
    assert await ending(queen, name, ()) in (
        grpc.StatusCode.UNAUTHENTICATED,
        # Whoever asks too often without a token is told to wait.
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )
    for role in Role:
        code = await ending(queen, name, secured.shown[role])
        if role in row.roles:
            assert code not in KEPT_OUT, role
        else:
            assert code is grpc.StatusCode.PERMISSION_DENIED, role


async def test_all_that_the_queen_hosts_is_in_the_matrix(secured: Secured) -> None:
    hosted = set(secured.queen.queen.server._main.services)
    assert hosted == {name.split("/")[0] for name in HOSTED}


# --- Another tenant ---

Reach = Callable[[Secured], Awaitable[object]]


def watch(secured: Secured) -> Awaitable[object]:
    async def first() -> object:
        call = secured.other.inference.WatchJob(pb.WatchJobRequest(job_id=secured.job_id))
        try:
            return await call.read()
        finally:
            call.cancel()

    return first()


def infer(secured: Secured) -> Awaitable[object]:
    async def first() -> object:
        request = pb.InferRequest(model="tiny", prompt="bee", tenant_id=OWN)
        call = secured.other.inference.Infer(request)
        try:
            return await call.read()
        finally:
            call.cancel()

    return first()


DENIED = (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
NO_JOB = (grpc.StatusCode.NOT_FOUND, "JOB_NOT_FOUND")
NO_LEASE = (grpc.StatusCode.NOT_FOUND, "LEASE_NOT_FOUND")
QUEEN = "beeyard.queen.v1."
#: How another tenant would reach for what is not its own, and what it is told.
REACHES: dict[str, tuple[Reach, tuple[grpc.StatusCode, str]]] = {
    QUEEN + "InferenceService/Infer": (infer, DENIED),
    QUEEN + "InferenceService/SubmitJob": (
        lambda s: s.other.inference.SubmitJob(
            pb.SubmitJobRequest(model="tiny", prompt="bee", tenant_id=OWN)
        ),
        DENIED,
    ),
    QUEEN + "InferenceService/WatchJob": (watch, NO_JOB),
    QUEEN + "InferenceService/GetJob": (
        lambda s: s.other.inference.GetJob(pb.GetJobRequest(job_id=s.job_id)),
        NO_JOB,
    ),
    QUEEN + "InferenceService/CancelJob": (
        lambda s: s.other.inference.CancelJob(pb.CancelJobRequest(job_id=s.job_id)),
        NO_JOB,
    ),
    QUEEN + "InferenceService/ExplainJob": (
        lambda s: s.other.inference.ExplainJob(pb.ExplainJobRequest(job_id=s.job_id)),
        NO_JOB,
    ),
    QUEEN + "InferenceService/GetJobTimeline": (
        lambda s: s.other.inference.GetJobTimeline(pb.GetJobTimelineRequest(job_id=s.job_id)),
        NO_JOB,
    ),
    QUEEN + "InferenceService/ListJobs": (
        lambda s: s.other.inference.ListJobs(pb.ListJobsRequest(tenant_id=OWN)),
        DENIED,
    ),
    QUEEN + "HistoryService/GetJobStatistics": (
        lambda s: s.other.history.GetJobStatistics(
            history_pb.GetJobStatisticsRequest(tenant_id=OWN)
        ),
        DENIED,
    ),
    QUEEN + "HistoryService/GetForecastReport": (
        lambda s: s.other.history.GetForecastReport(
            history_pb.GetForecastReportRequest(tenant_id=OWN)
        ),
        DENIED,
    ),
    QUEEN + "FleetService/ListTenants": (
        lambda s: s.other.fleet.ListTenants(fleet_pb.ListTenantsRequest(tenant_id=OWN)),
        DENIED,
    ),
    QUEEN + "LeaseService/SubmitWork": (
        lambda s: s.other.leases.SubmitWork(submission(tenant_id=OWN)),
        DENIED,
    ),
    QUEEN + "LeaseService/GetWork": (
        lambda s: s.other.leases.GetWork(lease_pb.GetWorkRequest(work_id=s.work_id)),
        NO_JOB,
    ),
    QUEEN + "LeaseService/CancelWork": (
        lambda s: s.other.leases.CancelWork(lease_pb.CancelWorkRequest(work_id=s.work_id)),
        NO_JOB,
    ),
    QUEEN + "LeaseService/ListWork": (
        lambda s: s.other.leases.ListWork(lease_pb.ListWorkRequest(tenant_id=OWN)),
        DENIED,
    ),
    QUEEN + "LeaseService/RequestLease": (
        lambda s: s.other.leases.RequestLease(
            lease_pb.RequestLeaseRequest(worker_id="h2", work_id=s.work_id)
        ),
        NO_JOB,
    ),
    QUEEN + "LeaseService/Heartbeat": (
        lambda s: s.other.leases.Heartbeat(lease_pb.HeartbeatRequest(**s.claim())),  # type: ignore[arg-type]
        NO_LEASE,
    ),
    QUEEN + "LeaseService/ReportProgress": (
        lambda s: s.other.leases.ReportProgress(
            lease_pb.ReportProgressRequest(progress=0.5, **s.claim())  # type: ignore[arg-type]
        ),
        NO_LEASE,
    ),
    QUEEN + "LeaseService/ReleaseLease": (
        lambda s: s.other.leases.ReleaseLease(
            lease_pb.ReleaseLeaseRequest(
                completed=lease_pb.WorkCompleted(),
                **s.claim(),  # type: ignore[arg-type]
            )
        ),
        NO_LEASE,
    ),
}


@pytest.mark.parametrize("name", BOUND)
async def test_what_is_another_tenants_is_out_of_reach(secured: Secured, name: str) -> None:
    assert name in REACHES, f"write down how another tenant would reach for {name}"
    reach, told = REACHES[name]
    found: Outcome = await refusal(reach(secured))
    assert (found.code, found.reason) == told
    assert SECRET not in str(found)


async def test_nothing_that_another_tenant_tried_changed_anything(secured: Secured) -> None:
    job = await secured.own.inference.GetJob(pb.GetJobRequest(job_id=secured.job_id))
    assert job.tenant_id == OWN
    assert not job.HasField("end_time")
    lease = await secured.own.leases.Heartbeat(
        lease_pb.HeartbeatRequest(**secured.claim())  # type: ignore[arg-type]
    )
    assert lease.lease.lease_id == secured.lease.lease_id


async def test_lists_show_a_tenant_its_own_and_an_operator_all(secured: Secured) -> None:
    own = await secured.own.inference.ListJobs(pb.ListJobsRequest())
    assert {job.tenant_id for job in own.jobs} == {OWN}
    assert not (await secured.other.inference.ListJobs(pb.ListJobsRequest())).jobs
    every = await secured.operator.inference.ListJobs(pb.ListJobsRequest())
    assert secured.job_id in {job.job_id for job in every.jobs}
    assert not (await secured.other.leases.ListWork(lease_pb.ListWorkRequest())).work
    tenants = await secured.other.fleet.ListTenants(fleet_pb.ListTenantsRequest())
    assert {one.tenant_id for one in tenants.tenants} <= {OTHER}


async def test_a_job_without_a_tenant_is_its_bearers(secured: Secured) -> None:
    request = pb.SubmitJobRequest(model="tiny", prompt="bee")
    assert (await secured.other.inference.SubmitJob(request)).tenant_id == OTHER
    named = pb.SubmitJobRequest(model="tiny", prompt="bee", tenant_id=OTHER)
    assert (await secured.other.inference.SubmitJob(named)).tenant_id == OTHER


async def test_the_same_request_id_of_two_tenants_is_two_jobs(secured: Secured) -> None:
    request = pb.SubmitJobRequest(model="tiny", prompt="bee", request_id="r1")
    own = await secured.own.inference.SubmitJob(request)
    other = await secured.other.inference.SubmitJob(request)
    assert own.job_id != other.job_id


async def test_the_author_of_a_policy_is_whoever_showed_the_token(secured: Secured) -> None:
    secured.queen.queen.policies.patience_ms = 5_000
    stub = policy_rpc.PolicyServiceStub(secured.operator.channel)
    source = await stub.GetPlatformSource(policy_pb.GetPlatformSourceRequest())
    version = await stub.DeployPolicy(
        policy_pb.DeployPolicyRequest(source=source, name="mine", author="somebody else")
    )
    assert version.author == "operator"


async def test_an_operator_may_see_and_stop_what_is_any_tenants(secured: Secured) -> None:
    job = await secured.operator.inference.CancelJob(pb.CancelJobRequest(job_id=secured.job_id))
    assert job.tenant_id == OWN
