"""Quotas at the wire: a tenants file, refusals that say what to do, and what an operator sees."""

import copy
from pathlib import Path

import grpc
import pytest
from beeyard.queen.v1 import fleet_service_pb2 as fleet_pb
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import lease_service_pb2 as lease_pb
from beeyard_core.ids import TenantId
from beeyard_core.quota import Quota
from beeyard_queen.tenants_file import read_tenants
from beeyard_runtime.faults import StartFailed
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # ships none
from grpc_status import rpc_status

from tests.support.attached_worker import attached_worker
from tests.support.running_queen import RunningQueen, running_queen
from tests.support.told import refusal

FILE = """
[default]
concurrent_jobs = 100

[tenants.ann]
concurrent_jobs = 1
vram_bytes = 24_000_000_000
tokens_per_minute = 60_000
requests_per_second = 5

[tenants.eve]
session_tokens = 300
session_cost_units = 4
"""
EXHAUSTED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")


@pytest.fixture
def tenants(tmp_path: Path) -> Path:
    path = tmp_path / "tenants.toml"
    path.write_text(FILE, encoding="utf-8")
    return path


def job(tenant_id: str = "ann", **changes: object) -> pb.SubmitJobRequest:
    request = pb.SubmitJobRequest(model="tiny", prompt="bee", tenant_id=tenant_id)
    request.MergeFrom(pb.SubmitJobRequest(**changes))  # type: ignore[arg-type]
    return request


async def usage(queen: RunningQueen, tenant_id: str = "ann") -> fleet_pb.Tenant:
    answer = await queen.fleet.ListTenants(fleet_pb.ListTenantsRequest(tenant_id=tenant_id))
    (found,) = answer.tenants
    return found


async def test_in_platform_mode_a_request_beyond_a_quota_is_refused_with_what_to_do(
    tenants: Path,
) -> None:
    async with (
        running_queen(tenants=tenants, policy_mode="platform") as queen,
        attached_worker(queen.channel, slots=0),
    ):
        first = await queen.inference.SubmitJob(job(request_id="r"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await queen.inference.SubmitJob(job())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]  # what is read is the same in aio
        assert status is not None
        info, retry, quota = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.RetryInfo(),
            error_details_pb2.QuotaFailure(),
        )
        assert [d.Unpack(m) for d, m in zip(status.details, (info, retry, quota), strict=True)]
        assert (info.reason, info.metadata["quota"]) == ("QUOTA_EXCEEDED", "concurrent_jobs")
        assert retry.retry_delay.ToMilliseconds() == 1_000
        assert quota.violations[0].subject == "tenant:ann"
        work = lease_pb.SubmitWorkRequest(kind="backup", tenant_id="ann")
        found = await refusal(queen.leases.SubmitWork(work))
        assert (found.code, found.reason) == EXHAUSTED
        assert (await queen.inference.SubmitJob(job(request_id="r"))).job_id == first.job_id
        assert (await queen.inference.SubmitJob(job("ben"))).job_id
        await queen.inference.CancelJob(pb.CancelJobRequest(job_id=first.job_id))
        assert (await queen.inference.SubmitJob(job())).job_id


async def test_in_lab_mode_it_is_let_in_and_counted(tenants: Path) -> None:
    async with running_queen(tenants=tenants) as queen, attached_worker(queen.channel, slots=0):
        for _ in range(3):
            await queen.inference.SubmitJob(job())
        found = await usage(queen)
        assert (found.jobs_unfinished, found.requests_total) == (3, 3)
        assert dict(found.exceeded) == {"concurrent_jobs": 2}
        assert list(found.models) == ["tiny"]
        assert found.tokens_total > 0


async def test_tenants_are_listed_with_their_quotas_before_they_ask_for_anything(
    tenants: Path,
) -> None:
    async with running_queen(tenants=tenants, policy_mode="platform") as queen:
        answer = await queen.fleet.ListTenants(fleet_pb.ListTenantsRequest())
        assert answer.enforced
        assert [tenant.tenant_id for tenant in answer.tenants] == ["ann", "eve"]
        assert answer.tenants[1].quota.session_tokens == 300
        quota = answer.tenants[0].quota
        assert (quota.concurrent_jobs, quota.requests_per_second) == (1, 5.0)
        await queen.leases.SubmitWork(lease_pb.SubmitWorkRequest(kind="backup"))
        default = await usage(queen, "default")
        assert (default.quota.concurrent_jobs, default.jobs_unfinished) == (100, 1)
        assert not default.quota.HasField("tokens_per_minute")


async def test_a_tenants_unfinished_work_counts_after_a_restart(tenants: Path) -> None:
    async with running_queen(tenants=tenants, policy_mode="platform") as queen:
        await queen.leases.SubmitWork(lease_pb.SubmitWorkRequest(kind="a", tenant_id="ann"))
        store = queen.store
    async with running_queen(store, tenants=tenants, policy_mode="platform") as later:
        work = lease_pb.SubmitWorkRequest(kind="b", tenant_id="ann")
        found = await refusal(later.leases.SubmitWork(work))
        assert (found.code, found.reason) == EXHAUSTED


async def test_a_session_is_told_what_is_left_of_its_budget_and_refused_beyond_it(
    tenants: Path,
) -> None:
    async with (
        running_queen(tenants=tenants, policy_mode="platform") as queen,
        attached_worker(queen.channel, slots=1) as worker,
    ):
        asked = {"session_id": "talk", "max_tokens": 200, "cost_units": 3}
        request = pb.InferRequest()
        request.ParseFromString(job("eve", **asked).SerializeToString())
        call = queen.inference.Infer(request)
        events = aiter(call)
        queued = (await anext(events)).queued
        assert queued.budget.tokens_remaining == 99
        assert queued.budget.cost_units_remaining == 1
        found = await refusal(queen.inference.SubmitJob(job("eve", **asked)))
        assert (found.code, found.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BUDGET_EXCEEDED")
        assert found.retry_after_ms == 1_000
        assert found.metadata["budget_tokens_remaining"] == "99"
        await worker.serve(await worker.offer(), " the", " hive")
        finished = [event async for event in events][-1].finished
        assert finished.budget.tokens_remaining > 200, "what it did not use came back"
        again = await queen.inference.SubmitJob(job("eve", **(asked | {"cost_units": 1})))
        assert again.budget.cost_units_remaining == 0
        assert not (await queen.inference.SubmitJob(job("ben", **asked))).HasField("budget")
        assert dict((await usage(queen, "eve")).exceeded) == {"session_tokens": 1}


def test_a_tenants_file_says_who_may_have_what(tenants: Path) -> None:
    found = read_tenants(tenants, is_enforced=True)
    assert found.of(TenantId("ann")) == Quota(
        concurrent_jobs=1,
        vram_bytes=24_000_000_000,
        tokens_per_minute=60_000,
        requests_per_second=5.0,
    )
    assert found.of(TenantId("ben")) == Quota(concurrent_jobs=100)
    assert read_tenants(None, is_enforced=False).of(TenantId("ann")) == Quota()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tenants.ann]\njobs = 1", "tenants.ann.jobs"),
        ("[tenant.ann]\n", "tenant"),
        ("[tenants.ann]\nconcurrent_jobs = -1", "tenants.ann.concurrent_jobs"),
        ('[tenants.ann]\nconcurrent_jobs = "2"', "tenants.ann.concurrent_jobs"),
        ("[tenants.ann]\nrequests_per_second = nan", "tenants.ann.requests_per_second"),
        (f"[tenants.{'x' * 200}]\n", "1 to 128 bytes"),
        ("[[", "not valid TOML"),
    ],
    ids=["key", "table", "negative", "text", "nan", "long", "toml"],
)
def test_a_wrong_tenants_file_is_refused_with_the_place(
    tenants: Path, text: str, said: str
) -> None:
    tenants.write_text(text, encoding="utf-8")
    with pytest.raises(StartFailed, match=said):
        read_tenants(tenants, is_enforced=True)


def test_a_tenants_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="cannot be read"):
        read_tenants(tmp_path / "none.toml", is_enforced=True)


def test_a_tenants_file_has_a_size(tenants: Path) -> None:
    tenants.write_bytes(b"#" * ((4 << 20) + 1))
    with pytest.raises(StartFailed, match="larger than"):
        read_tenants(tenants, is_enforced=True)


async def test_a_budget_that_was_used_is_used_after_the_queen_was_killed(tenants: Path) -> None:
    asked = {"session_id": "talk", "max_tokens": 100, "cost_units": 3}
    chosen = {"tenants": tenants, "policy_mode": "platform"}
    async with (
        running_queen(**chosen) as queen,  # type: ignore[arg-type]  # a path and one of the modes
        attached_worker(queen.channel, slots=1) as worker,
    ):
        request = pb.InferRequest()
        request.ParseFromString(job("eve", **asked).SerializeToString())
        events = aiter(queen.inference.Infer(request))
        await worker.serve(await worker.offer(), " the", " hive")
        finished = [event async for event in events][-1].finished
        # What a `kill -9` at this instant would leave on the disk.
        disk = copy.deepcopy(queen.store)
        await disk.close()
    async with running_queen(disk, **chosen) as later:  # type: ignore[arg-type]
        found = await refusal(later.inference.SubmitJob(job("eve", **asked)))
        assert found.reason == "BUDGET_EXCEEDED"
        left = finished.budget
        assert found.metadata["budget_tokens_remaining"] == str(left.tokens_remaining)
        assert (
            found.metadata["budget_cost_units_remaining"] == str(left.cost_units_remaining) == "1"
        )
