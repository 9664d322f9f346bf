"""restart: from the start of a queen's process to its serving, with a hundred thousand jobs in its store.

Control: the same rows read with bare SQL, in a process that is there already. The target is absolute; the ratio says
how much of it is reading. Wall time on a busy machine says more of the machine, so the CPU time is told beside it.
"""

import asyncio
import os
import shutil
import statistics
import time
from pathlib import Path

import apsw
import grpc
from beeyard.queen.v1 import fleet_service_pb2 as pb
from beeyard.queen.v1 import fleet_service_pb2_grpc

from benchmarks.full_store import MODEL, fill
from benchmarks.measure import Figure
from benchmarks.processes import group

JOBS = 100_000
SERVING_S_MAX = 5.0
REATTACHED_S_MAX = 2.0


async def measure(rounds: int) -> Figure:
    """Measure restart."""
    figure = Figure("restart", "s until it serves", "the same rows by bare SQL", SERVING_S_MAX)
    figure.smaller_is_better = True
    served: list[float] = []
    cpu: list[float] = []
    attached: list[float] = []
    read: list[float] = []
    async with group() as kept:
        full = kept.work_dir / "full.sqlite"
        await fill(full, JOBS)
        for _ in range(rounds):
            seconds, cpu_s, attached_s = await _start(full)
            served.append(seconds)
            cpu.append(cpu_s)
            attached.append(attached_s)
            read.append(await asyncio.to_thread(_read, full))
    figure.value, figure.control_value = statistics.median(served), statistics.median(read)
    ratios = [ours / theirs for ours, theirs in zip(served, read, strict=True)]
    figure.ratio, figure.spread = statistics.median(ratios), (min(ratios), max(ratios))
    later_s = statistics.median(attached)
    figure.met = figure.value <= SERVING_S_MAX and later_s <= REATTACHED_S_MAX
    figure.n, figure.load_average = rounds, os.getloadavg()[0]
    figure.note = (
        f"{JOBS:,} queued jobs; {statistics.median(cpu):.1f} s of CPU time until it serves; a worker that waited "
        f"for it is attached {later_s:.1f} s later (at most {REATTACHED_S_MAX:g}); the target is in seconds"
    )
    return figure


async def _start(full: Path) -> tuple[float, float, float]:
    """Start a queen on a copy of the store; return (s, CPU s) until it serves, and s until a worker is back."""
    async with group() as processes:
        store = processes.work_dir / "jobs.sqlite"
        shutil.copy(full, store)
        listen = "127.0.0.1:0"
        began = time.perf_counter()
        flags = (f"--listen={listen}", f"--store={store}", "--log-level=warning")
        queen = await processes.start("queen", "beeyard_queen", *flags)
        serving = time.perf_counter()
        cpu_s = processes.cpu_s()["queen"]
        async with grpc.aio.insecure_channel(queen) as channel:
            call = fleet_service_pb2_grpc.FleetServiceStub(channel).ListModels(
                pb.ListModelsRequest(), timeout=60
            )
            (model,) = (each for each in (await call).models if each.model == MODEL)
            assert model.jobs_queued == JOBS
            await _attach(channel)
        return serving - began, cpu_s, time.perf_counter() - serving


async def _attach(channel: grpc.aio.Channel) -> None:
    """Say hello as a worker does, and return when welcome."""
    from beeyard.worker.v1 import engine_service_pb2 as engine_pb  # noqa: PLC0415 - the worker's side
    from beeyard.worker.v1 import worker_service_pb2 as worker_pb  # noqa: PLC0415
    from beeyard.worker.v1 import worker_service_pb2_grpc as worker_rpc  # noqa: PLC0415

    status = engine_pb.EngineStatus(
        worker_id="back", model=MODEL, state=engine_pb.WORKER_STATE_READY, context_tokens=8_192
    )
    hello = worker_pb.Hello(status=status, pool_id="bench", address="127.0.0.1:1")
    call = worker_rpc.WorkerServiceStub(channel).Attach()  # type: ignore[call-arg]
    try:
        await call.write(worker_pb.AttachRequest(hello=hello))
        assert isinstance(await call.read(), worker_pb.AttachResponse)
    finally:
        call.cancel()


def _read(path: Path) -> float:
    """Read what a queen needs, and return how long it took."""
    began = time.perf_counter()
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        rows = list(connection.execute("SELECT * FROM jobs WHERE is_ended = 0 ORDER BY sequence"))
    finally:
        connection.close()
    assert len(rows) == JOBS
    return time.perf_counter() - began
