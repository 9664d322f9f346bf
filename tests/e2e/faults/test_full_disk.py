"""A real disk that is full: nothing is acknowledged that is not on it, and the queen heals by itself.

The disk is a tmpfs of a few megabytes, so this needs the right to mount one.
"""

import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import pytest
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import inference_service_pb2_grpc as rpc
from beeyard_client.cli.checks import store as checked
from beeyard_runtime.rpc_channel import open_channel

from tests.support.attached_worker import attached_worker
from tests.support.eventually import eventually
from tests.support.raw_calls import outcome
from tests.support.service import Service

DISK_MIB = 4
PROMPT = "bee " * 4_000
LOOPBACK = "127.0.0.1:0"
JOBS_MAX = 2_000


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a disk of a few megabytes, or skip where that is not permitted."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "beeyard-test", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@asynccontextmanager
async def queen_on(
    store: Path, log: Path
) -> AsyncIterator[tuple["rpc.InferenceServiceAsyncStub", Service]]:
    """A queen that knows one model, of which no worker runs: its jobs wait."""
    flags = ("--store", str(store), "--listen", LOOPBACK, "--admin-listen", LOOPBACK)
    quiet = ("--decision-journal", "off", "--no-start-on-demand")
    async with Service("queen", [*flags, *quiet], log=log, env={}) as service:
        channel = open_channel(service.address)
        try:
            yield rpc.InferenceServiceStub(channel), service
        finally:
            await channel.close(None)


async def submit(stub: "rpc.InferenceServiceAsyncStub") -> str:
    request = pb.SubmitJobRequest(model="tiny", prompt=PROMPT, max_tokens=1)
    job = await stub.SubmitJob(request, timeout=20)
    return job.job_id


async def until_refused(stub: "rpc.InferenceServiceAsyncStub") -> tuple[list[str], str]:
    """Submit until the queen will not; return what it acknowledged, and the reason."""
    acknowledged: list[str] = []
    for _ in range(JOBS_MAX):
        try:
            acknowledged.append(await submit(stub))
        except grpc.aio.AioRpcError as error:
            told = outcome(error)
            assert told.code is grpc.StatusCode.UNAVAILABLE
            assert told.retry_after_ms
            return acknowledged, told.reason
    return acknowledged, ""


async def take_in_one_worker(stub: "rpc.InferenceServiceAsyncStub", service: Service) -> None:
    """Let a worker introduce its model and leave."""
    channel = open_channel(service.address)
    async with attached_worker(channel, slots=1):
        pass
    await channel.close(None)


async def test_a_full_disk_acknowledges_nothing_that_is_lost_and_heals(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        filler = disk / "filler"
        filler.write_bytes(b"\0" * (1 << 20))
        store = disk / "queen.sqlite"
        async with queen_on(store, tmp_path / "queen.log") as (stub, service):
            await take_in_one_worker(stub, service)
            acknowledged, reason = await until_refused(stub)
            assert reason == "STORE_UNAVAILABLE"
            assert acknowledged, "the disk was full before anything began"
            for _ in range(3):
                with pytest.raises(grpc.aio.AioRpcError) as again:
                    await submit(stub)
                assert outcome(again.value).reason == "STORE_UNAVAILABLE"
            # Reading goes on.
            found = await stub.GetJob(pb.GetJobRequest(job_id=acknowledged[0]))
            assert found.job_id == acknowledged[0]
            filler.unlink()
            log = tmp_path / "queen.log"
            await eventually(lambda: "store_healed" in log.read_text(), "the queen heals")
            acknowledged.append(await submit(stub))
            await service.kill()
        async with queen_on(store, tmp_path / "queen.log") as (stub, _):
            for job_id in acknowledged:
                job = await stub.GetJob(pb.GetJobRequest(job_id=job_id))
                assert job.job_id == job_id
        findings = await checked(store)
        assert [each for each in findings if each.level.value == "fail"] == []


async def test_the_same_jobs_fit_where_there_is_room(tmp_path: Path) -> None:
    """The control: without the small disk the same number of jobs is taken without a refusal."""
    async with queen_on(tmp_path / "queen.sqlite", tmp_path / "queen.log") as (stub, service):
        await take_in_one_worker(stub, service)
        for _ in range((DISK_MIB << 20) // len(PROMPT)):
            await submit(stub)
