"""A real pool manager process with scripted workers, and a queen that says what the test says."""

import json
import shlex
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from beeyard.pool.v1 import pool_manager_service_pb2_grpc as manager_rpc
from beeyard.pool.v1 import pool_service_pb2_grpc
from beeyard.pool.v1 import snapshot_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard_runtime.rpc_channel import open_channel
from beeyard_runtime.testing import serving

from tests.support.service import Service
from tests.support.supervised import scripted_program
from tests.support.synchronizing_queen import SynchronizingQueen

GIB = 1 << 30
ROOT = Path(__file__).parents[2]


def write_devices(path: Path, *free_bytes: int, fault: str = "") -> Path:
    """Write a scripted inventory of GPUs with so much free memory, and return its path."""
    devices = [
        {"uuid": f"GPU-{number}", "vram_total_bytes": 80 * GIB, "vram_free_bytes": free}
        for number, free in enumerate(free_bytes)
    ]
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"devices": devices, "fault": fault}))
    return draft.replace(path)


def pool_manager(
    folder: Path, env: Mapping[str, str], *flags: str, behaviour: Sequence[str] = ("serve",)
) -> Service:
    """Return a pool manager that is not started yet; its workers behave as told."""
    devices = folder / "devices.json"
    if not devices.exists():
        write_devices(devices, 8 * GIB)
    settings = {
        "--listen": "127.0.0.1:0",
        "--queen": "",
        "--pool-id": "pool-1",
        "--work-dir": str(folder / "work"),
        "--inventory": str(devices),
        "--report-interval-ms": "100",
        "--model": "syn=synthetic:100",
        "--worker-command": shlex.join(scripted_program(*behaviour)),
        "--log-format": "json",
    }
    given = [f"{flag}={value}" for flag, value in settings.items()]
    # The scripted worker is a module of the tests, which only the repository's root knows.
    seen = {**env, "PYTHONPATH": str(ROOT)}
    return Service("pool_manager", [*given, *flags], log=folder / "pool_manager.log", env=seen)


@asynccontextmanager
async def queen_and_pool(
    folder: Path, env: Mapping[str, str], *flags: str, behaviour: Sequence[str] = ("serve",)
) -> AsyncIterator[tuple[SynchronizingQueen, Service]]:
    """Run a scripted queen and a pool manager that reports to her."""
    queen = SynchronizingQueen()
    async with serving((pool_service_pb2_grpc.add_PoolServiceServicer_to_server, queen)) as served:
        manager = pool_manager(
            folder, env, f"--queen={served.address}", *flags, behaviour=behaviour
        )
        async with manager:
            yield queen, manager


@asynccontextmanager
async def calling(service: Service) -> "AsyncIterator[manager_rpc.PoolManagerServiceAsyncStub]":
    """Speak to a pool manager."""
    channel = open_channel(service.address)
    try:
        yield manager_rpc.PoolManagerServiceStub(channel)
    finally:
        await channel.close(None)


def worker_in(
    worker_id: str, holds: Callable[[pb.WorkerProcess], bool]
) -> Callable[[pb.HostSnapshot], bool]:
    """Return whether a snapshot lists a worker of which `holds` is true."""
    return lambda snapshot: any(
        each.worker_id == worker_id and holds(each) for each in snapshot.workers
    )


def is_ready(worker: pb.WorkerProcess) -> bool:
    """Whether a worker can be given work."""
    return worker.state == engine_pb.WORKER_STATE_READY


def is_failed(worker: pb.WorkerProcess) -> bool:
    """Whether a worker ended or could not start."""
    return worker.state == engine_pb.WORKER_STATE_FAILED
