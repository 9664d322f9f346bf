"""The pool manager with the worker that ships: the synthetic engine, no queen."""

import asyncio
from pathlib import Path

import psutil
from beeyard.pool.v1 import pool_manager_service_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard.worker.v1 import engine_service_pb2_grpc as engine_rpc
from beeyard_runtime.rpc_channel import open_channel

from tests.support.pool import calling, pool_manager
from tests.support.service import MARK, Service, marked

Env = dict[str, str]


def shipping(folder: Path, env: Env, *flags: str) -> Service:
    return pool_manager(folder, env, "--worker-command=", *flags)


async def ready_worker(service: Service, worker_id: str) -> tuple[int, str]:
    """Return pid and address of the worker once it is ready."""
    async with calling(service) as stub:
        call = stub.WatchSnapshots(pb.WatchSnapshotsRequest(interval_ms=100), timeout=30)
        try:
            async for snapshot in call:
                for worker in snapshot.workers:
                    is_ready = worker.state == engine_pb.WORKER_STATE_READY
                    if worker.worker_id == worker_id and is_ready:
                        return worker.pid, worker.address
        finally:
            call.cancel()
    raise AssertionError("the stream ended")


async def start(service: Service, worker_id: str) -> None:
    async with calling(service) as stub:
        await stub.StartWorker(pb.StartWorkerRequest(worker_id=worker_id, model="syn"), timeout=10)


async def answer_of(address: str) -> list[int]:
    channel = open_channel(address)
    call = engine_rpc.EngineServiceStub(channel).Generate(
        engine_pb.GenerateRequest(prompt="The honey bee", max_tokens=4, seed=7), timeout=20
    )
    try:
        return [token for event in [e async for e in call] for token in event.tokens.ids]
    finally:
        call.cancel()
        await channel.close(None)


async def test_a_worker_answers_before_and_after_its_adoption(tmp_path: Path, mark: Env) -> None:
    async with shipping(tmp_path, mark) as first:
        await start(first, "w1")
        before = await ready_worker(first, "w1")
        said = await answer_of(before[1])
        await first.kill()
    # Nobody supervises it now, and it goes on.
    assert await answer_of(before[1]) == said
    async with shipping(tmp_path, mark) as second:
        assert await ready_worker(second, "w1") == before
        assert await answer_of(before[1]) == said
        assert len(said) == 4
    assert second.exit_code == 0
    assert marked(mark[MARK]) == []


async def test_a_worker_that_nobody_adopts_ends_by_itself(tmp_path: Path, mark: Env) -> None:
    async with shipping(tmp_path, mark, "--supervisor-grace-ms=1500") as service:
        await start(service, "w1")
        pid, _ = await ready_worker(service, "w1")
        worker = psutil.Process(pid)
        await service.kill()
    _, alive = await asyncio.to_thread(psutil.wait_procs, [worker], timeout=30)
    assert all(each.status() == psutil.STATUS_ZOMBIE for each in alive)
