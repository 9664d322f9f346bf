"""Hosts and what operators see and wish of them: `Synchronize` on one side, `FleetService` on the other."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from beeyard.pool.v1 import pool_service_pb2 as pb
from beeyard.pool.v1 import snapshot_pb2
from beeyard.queen.v1 import fleet_service_pb2 as fleet_pb
from beeyard.queen.v1 import inference_service_pb2 as inference_pb
from beeyard.queen.v1 import job_pb2
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard_core import limits

from tests.support.attached_worker import AttachedWorker, attached_worker
from tests.support.eventually import eventually
from tests.support.played_host import GIB, Host, connected, snapshot
from tests.support.raw_calls import outcome
from tests.support.running_queen import RunningQueen
from tests.support.told import refusal

INVALID = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")


@pytest.fixture
async def host(queen: RunningQueen) -> AsyncIterator[Host]:
    async with connected(queen) as one:
        await one.until(lambda _: True)
        yield one


async def start(queen: RunningQueen, **wish: str) -> fleet_pb.StartWorkerResponse:
    return await queen.fleet.StartWorker(fleet_pb.StartWorkerRequest(model="tiny", **wish))


async def test_the_first_snapshot_is_answered_with_what_should_run(host: Host) -> None:
    (answer,) = host.told
    assert not answer.workers
    assert answer.report_interval_ms == limits.REPORT_INTERVAL_MS
    assert not answer.authoritative, "workers that nobody wished for are left alone"


async def test_hosts_are_listed_as_they_reported(queen: RunningQueen, host: Host) -> None:
    (pool,) = (await queen.fleet.ListPools(fleet_pb.ListPoolsRequest())).pools
    assert pool.snapshot == snapshot()
    assert pool.fresh
    await queen.tick(limits.REPORT_STALE_MS + 1)
    (pool,) = (await queen.fleet.ListPools(fleet_pb.ListPoolsRequest())).pools
    assert not pool.fresh


async def test_models_are_listed_with_who_offers_them(queen: RunningQueen, host: Host) -> None:
    async with attached_worker(queen.channel, model="other"):
        listed = (await queen.fleet.ListModels(fleet_pb.ListModelsRequest())).models
    models = {model.model: model for model in listed}
    assert list(models["tiny"].pool_ids) == ["host"]
    assert (models["tiny"].size_bytes, models["tiny"].quantization) == (GIB // 2, "Q4_K_M")
    assert models["tiny"].workers_ready == 0
    assert models["other"].workers_ready == 1


async def test_workers_are_listed_from_both_sides(queen: RunningQueen, host: Host) -> None:
    process = snapshot_pb2.WorkerProcess(
        worker_id="w1", model="tiny", pid=42, state=engine_pb.WORKER_STATE_READY
    )
    loading = snapshot_pb2.WorkerProcess(
        worker_id="w2", model="tiny", pid=43, state=engine_pb.WORKER_STATE_STARTING
    )
    await host.send(snapshot(workers=[process, loading]))
    async with attached_worker(queen.channel, pool_id="host"):
        await eventually(lambda: queen.queen._hosts.snapshots["host"][0].workers, "reported")  # type: ignore[index]
        listed = (await queen.fleet.ListWorkers(fleet_pb.ListWorkersRequest())).workers
        assert [(w.status.worker_id, w.pid, w.attached) for w in listed] == [
            ("w1", 42, True),
            ("w2", 43, False),
        ]
        other = fleet_pb.ListWorkersRequest(pool_id="elsewhere")
        assert not (await queen.fleet.ListWorkers(other)).workers


async def test_an_operator_gets_one_more_worker(queen: RunningQueen, host: Host) -> None:
    answer = await start(queen)
    assert answer.pool_id == "host"
    told = await host.until(lambda list_: list_.workers)
    (wanted,) = told.workers
    assert (wanted.worker_id, wanted.model) == (answer.worker_id, "tiny")
    assert wanted.state == pb.DESIRED_STATE_RUNNING
    second = await start(queen)
    assert second.worker_id != answer.worker_id
    await host.until(lambda list_: len(list_.workers) == 2)


async def test_a_wish_with_a_request_id_is_fulfilled_once(queen: RunningQueen, host: Host) -> None:
    first = await start(queen, request_id="key")
    assert await start(queen, request_id="key") == first
    assert len((await host.until(lambda list_: list_.workers)).workers) == 1


async def test_a_stopped_worker_is_wanted_no_more(queen: RunningQueen, host: Host) -> None:
    wanted = await start(queen)
    await queen.fleet.StopWorker(fleet_pb.StopWorkerRequest(worker_id=wanted.worker_id))
    told = await host.until(
        lambda list_: list_.workers and list_.workers[0].state == pb.DESIRED_STATE_STOPPED
    )
    assert told.workers[0].worker_id == wanted.worker_id


@pytest.mark.parametrize(
    ("model", "pool", "reason"),
    [
        ("unheard-of", "", "MODEL_NOT_FOUND"),
        ("tiny", "elsewhere", "MODEL_NOT_FOUND"),
        ("", "", "INVALID_REQUEST"),
    ],
)
async def test_a_wish_that_nobody_can_fulfil_is_refused(
    queen: RunningQueen, host: Host, model: str, pool: str, reason: str
) -> None:
    request = fleet_pb.StartWorkerRequest(model=model, pool_id=pool)
    told = await refusal(queen.fleet.StartWorker(request))
    assert told.reason == reason
    assert not queen.queen._actor.answers.operators


async def test_nothing_is_started_on_a_stale_host(queen: RunningQueen, host: Host) -> None:
    await queen.tick(limits.REPORT_STALE_MS + 1)
    told = await refusal(queen.fleet.StartWorker(fleet_pb.StartWorkerRequest(model="tiny")))
    assert told.reason in ("POOL_UNREADY", "NO_CAPACITY_INCOMPATIBLE_VRAM")


async def test_a_job_without_a_worker_brings_one(queen: RunningQueen, host: Host) -> None:
    request = inference_pb.SubmitJobRequest(model="tiny", prompt="bee")
    job = await queen.inference.SubmitJob(request)
    await queen.tick()
    (wanted,) = (await host.until(lambda list_: list_.workers)).workers
    async with attached_worker(queen.channel, wanted.worker_id, pool_id="host") as worker:
        await worker.serve(await worker.offer(), " the")
        await worker.over(1)
    got = await queen.inference.GetJob(inference_pb.GetJobRequest(job_id=job.job_id))
    assert got.state == job_pb2.JOB_STATE_COMPLETED
    # The list holds as long as the worker should run; it is not sent again without a change.
    before = len(host.told)
    await queen.tick(times=3)
    assert len(host.told) == before


async def test_a_process_that_ended_takes_its_leases_along(queen: RunningQueen, host: Host) -> None:
    async with attached_worker(queen.channel, pool_id="host") as worker:
        await queen.inference.SubmitJob(inference_pb.SubmitJobRequest(model="tiny", prompt="bee"))
        await worker.offer()
        process = snapshot_pb2.WorkerProcess(worker_id="w1", model="tiny", exit_code=-9)
        await host.send(snapshot(workers=[process]))
        # At once, and not after the lease's time to live.
        await worker.ended()
    (job,) = queen.queen.loop.state.jobs.values()
    await eventually(lambda: job.state.value == "queued", "the job waits again")


async def test_a_second_stream_of_a_host_replaces_the_first(
    queen: RunningQueen, host: Host
) -> None:
    async with connected(queen) as second:
        await second.until(lambda _: True)
        await asyncio.wait([host.listening], timeout=10)
        assert host.listening.done()
        await start(queen)
        await second.until(lambda list_: list_.workers)


@pytest.mark.parametrize("pool_id", ["", "x" * 129])
async def test_a_host_without_a_name_is_refused(queen: RunningQueen, pool_id: str) -> None:
    nameless = snapshot()
    nameless.pool_id = pool_id
    async with connected(queen, nameless) as one:
        await asyncio.wait([one.listening], timeout=10)
        assert one.error is not None
        told = outcome(one.error)
    assert (told.code, told.reason, told.field) == (*INVALID, "snapshot.pool_id")


async def test_a_stream_speaks_for_one_host(queen: RunningQueen, host: Host) -> None:
    await host.send(snapshot("another"))
    await asyncio.wait([host.listening], timeout=10)
    assert host.error is not None
    told = outcome(host.error)
    assert (told.code, told.reason) == INVALID


async def test_the_fleet_is_shown_at_once_and_after_each_change(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    call = queen.fleet.WatchFleet(fleet_pb.WatchFleetRequest(min_interval_ms=100))
    snapshots = aiter(call)
    first = await anext(snapshots)
    assert [w.status.worker_id for w in first.workers] == ["w1"]
    async with attached_worker(queen.channel, "w2"):
        await eventually(lambda: len(queen.queen.loop.state.fleet.workers) == 2, "two")
        await queen.tick()
        second = await anext(snapshots)
        assert len(second.workers) == 2
        assert second.version > first.version
    call.cancel()


@pytest.mark.parametrize("interval_ms", [-1, 1, limits.FLEET_INTERVAL_MAX_MS + 1])
async def test_an_interval_has_limits(queen: RunningQueen, interval_ms: int) -> None:
    request = fleet_pb.WatchFleetRequest(min_interval_ms=interval_ms)
    told = await refusal(queen.fleet.WatchFleet(request))
    assert (told.code, told.reason, told.field) == (*INVALID, "min_interval_ms")
