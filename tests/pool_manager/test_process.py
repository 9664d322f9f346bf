"""The pool manager as operators meet it: one process, its calls, its end, and its successor."""

import socket
from pathlib import Path

import grpc
import psutil
import pytest
from beeyard.pool.v1 import pool_manager_service_pb2 as pb
from beeyard_core.refusal import Refusal
from beeyard_runtime.rpc_errors import from_error

from tests.support.pool import GIB, calling, is_ready, pool_manager, worker_in, write_devices
from tests.support.service import MARK, Service, StackFailed, marked

Env = dict[str, str]


async def refusal_of(call: grpc.aio.UnaryUnaryCall[object, object]) -> tuple[Refusal, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    refused = from_error(caught.value)
    return refused.reason, refused.field


async def until_ready(service: Service, worker_id: str) -> int:
    """Return the worker's pid once it is ready."""
    async with calling(service) as stub:
        call = stub.WatchSnapshots(pb.WatchSnapshotsRequest(interval_ms=100), timeout=30)
        try:
            async for snapshot in call:
                if worker_in(worker_id, is_ready)(snapshot):
                    return next(w.pid for w in snapshot.workers if w.worker_id == worker_id)
        finally:
            call.cancel()
    raise AssertionError("the stream ended")


async def test_one_host_is_inspected_and_driven_directly(tmp_path: Path, mark: Env) -> None:
    async with pool_manager(tmp_path, mark) as manager, calling(manager) as stub:
        snapshot = await stub.GetSnapshot(pb.GetSnapshotRequest(), timeout=10)
        assert [each.uuid for each in snapshot.devices] == ["GPU-0"]
        started = await stub.StartWorker(
            pb.StartWorkerRequest(worker_id="w1", model="syn"), timeout=10
        )
        assert started.pid > 0
        same = await stub.StartWorker(
            pb.StartWorkerRequest(worker_id="w1", model="syn"), timeout=10
        )
        assert same.pid == started.pid
        drawn = await stub.StartWorker(pb.StartWorkerRequest(model="syn"), timeout=10)
        assert drawn.worker_id not in {"", "w1"}
        listed = await stub.ListWorkers(pb.ListWorkersRequest(), timeout=10)
        assert {each.worker_id for each in listed.workers} == {"w1", drawn.worker_id}
        await until_ready(manager, "w1")
        stopped = await stub.StopWorker(pb.StopWorkerRequest(worker_id="w1"), timeout=20)
        assert stopped.exit_code == 0
        assert not psutil.pid_exists(started.pid)
        again = await stub.StopWorker(pb.StopWorkerRequest(worker_id="w1"), timeout=10)
        assert again == stopped
    assert manager.exit_code == 0
    assert marked(mark[MARK]) == []


async def test_every_bad_call_is_refused_with_its_reason(tmp_path: Path, mark: Env) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "torn.gguf").write_bytes(b"GGUF")
    flags = ("--models-dir", str(tmp_path / "models"))
    async with pool_manager(tmp_path, mark, *flags) as manager, calling(manager) as stub:

        async def start(**fields: str) -> tuple[Refusal, str]:
            return await refusal_of(stub.StartWorker(pb.StartWorkerRequest(**fields), timeout=10))  # type: ignore[arg-type]

        async def stop(worker_id: str, grace_ms: int = 0) -> tuple[Refusal, str]:
            request = pb.StopWorkerRequest(worker_id=worker_id, grace_ms=grace_ms)
            return await refusal_of(stub.StopWorker(request, timeout=10))  # type: ignore[arg-type]

        assert await start() == (Refusal.INVALID_REQUEST, "model")
        assert await start(model="none") == (Refusal.MODEL_NOT_FOUND, "model")
        assert await start(model="torn") == (Refusal.MODEL_LOAD_FAILED, "model")
        assert await start(model="syn", worker_id="x" * 129) == (
            Refusal.INVALID_REQUEST,
            "worker_id",
        )
        assert await start(model="syn", worker_id="a\nb") == (Refusal.INVALID_REQUEST, "worker_id")
        assert (await start(model="syn", device="GPU-9"))[0] is (
            Refusal.NO_CAPACITY_INCOMPATIBLE_DEVICE_MASK
        )
        assert await stop("") == (Refusal.INVALID_REQUEST, "worker_id")
        assert await stop("none") == (Refusal.WORKER_NOT_FOUND, "worker_id")
        assert await stop("none", -1) == (Refusal.INVALID_REQUEST, "grace_ms")
        write_devices(tmp_path / "devices.json", fault="gone")
        assert (await start(model="syn"))[0] is Refusal.POOL_UNREADY
        watch = stub.WatchSnapshots(pb.WatchSnapshotsRequest(interval_ms=5), timeout=10)
        try:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await watch.read()
        finally:
            watch.cancel()
        assert from_error(caught.value).field == "interval_ms"


async def test_a_model_too_large_for_every_device_is_refused_in_words(
    tmp_path: Path, mark: Env
) -> None:
    from scripts.tiny_gguf import write_tiny_gguf  # noqa: PLC0415 - loads numpy

    write_devices(tmp_path / "devices.json", GIB // 64, GIB // 32)
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    async with (
        pool_manager(tmp_path, mark, f"--model=tiny={path}") as manager,
        calling(manager) as stub,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.StartWorker(pb.StartWorkerRequest(model="tiny"), timeout=10)
        refused = from_error(caught.value)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert refused.reason is Refusal.NO_CAPACITY_INCOMPATIBLE_VRAM
        assert "at most 32 MiB is free" in refused.message


async def test_workers_outlive_a_killed_pool_manager_and_are_adopted(
    tmp_path: Path, mark: Env
) -> None:
    async with pool_manager(tmp_path, mark) as first:
        async with calling(first) as stub:
            await stub.StartWorker(pb.StartWorkerRequest(worker_id="w1", model="syn"), timeout=10)
        pid = await until_ready(first, "w1")
        await first.kill()
    assert psutil.Process(pid).is_running()
    async with pool_manager(tmp_path, mark) as second:
        assert await until_ready(second, "w1") == pid
        async with calling(second) as stub:
            (worker,) = (await stub.ListWorkers(pb.ListWorkersRequest(), timeout=10)).workers
            assert worker.adopted
            same = await stub.StartWorker(
                pb.StartWorkerRequest(worker_id="w1", model="syn"), timeout=10
            )
            assert same.pid == pid
    # Stopping the successor ends the adopted worker too: nothing is left.
    assert second.exit_code == 0
    assert marked(mark[MARK]) == []


async def test_workers_are_left_for_an_upgrade_if_asked(tmp_path: Path, mark: Env) -> None:
    async with pool_manager(tmp_path, mark, "--leave-workers") as first:
        async with calling(first) as stub:
            await stub.StartWorker(pb.StartWorkerRequest(worker_id="w1", model="syn"), timeout=10)
        pid = await until_ready(first, "w1")
    assert first.exit_code == 0
    async with pool_manager(tmp_path, mark) as second:
        assert await until_ready(second, "w1") == pid
    assert marked(mark[MARK]) == []


async def failure_of(service: Service) -> str:
    """Return the one line with which a service that cannot start ends."""
    with pytest.raises(StackFailed) as caught:
        await service.start()
    lines = str(caught.value).splitlines()
    said = [line for line in lines if line.startswith("beeyard pool-manager: ")]
    assert len(said) == 1, lines
    assert service.exit_code in {1, 2}
    assert not any("Traceback" in line for line in lines)
    return said[0]


async def test_two_pool_managers_never_share_a_work_folder(tmp_path: Path, mark: Env) -> None:
    async with pool_manager(tmp_path, mark) as first:
        assert "another pool manager" in await failure_of(pool_manager(tmp_path, mark))
        assert first.is_running


async def test_what_makes_a_start_impossible_is_one_clear_line(tmp_path: Path, mark: Env) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert address in await failure_of(pool_manager(tmp_path, mark, f"--listen={address}"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").touch()
    folder = f"--work-dir={other / 'file' / 'work'}"
    assert "cannot be written" in await failure_of(pool_manager(other, mark, folder))


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--models-dir=/no/such/folder", "models folder"),
        ("--model=broken", "NAME=SOURCE"),
        ("--model=syn=synthetic:1", "given twice"),
        ("--slots=0", "slots"),
        ("--report-interval-ms=1", "report"),
        ("--worker-command='", "worker"),
    ],
)
async def test_a_wrong_setting_is_named(tmp_path: Path, mark: Env, flag: str, said: str) -> None:
    service = pool_manager(tmp_path, mark, flag)
    assert said in await failure_of(service)
    assert service.exit_code == 2
