"""slow_readers: how long others wait for their tokens while a thousand clients follow a job and read nothing of it.

Sixteen answers at 50 tokens a second, and of all the gaps between what a client gets of one the 99th percentile;
control: the same in the same queen, with nobody else there, in turn. What the silent clients cost the queen in memory
is told beside it. They have connections of their own, as they have it in the field, and each is owed more than its
window holds.
"""

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import psutil
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import inference_service_pb2_grpc as rpc
from beeyard.queen.v1 import job_pb2

from benchmarks.client import serving_workers
from benchmarks.measure import Figure
from benchmarks.processes import Group, stack

READERS = 1_000
AT_ONCE = 50
STREAMS = 16
MEASURED_S = 6.0
#: Of the job that nobody reads, whose text is twice a window.
TOKENS = 30_000
RATIO_MAX = 1.1
BYTES_EACH_MAX = 64 << 10
_OWN = (("grpc.use_local_subchannel_pool", 1),)

Deaf = grpc.aio.UnaryStreamCall[pb.WatchJobRequest, job_pb2.JobEvent]


async def measure(rounds: int) -> Figure:
    """Measure slow_readers."""
    figure = Figure("slow_readers", "ms, p99 between tokens", "no silent clients", RATIO_MAX)
    figure.smaller_is_better = True
    beside: list[float] = []
    alone: list[float] = []
    each: list[float] = []
    async with (
        stack(rate="50", slots=STREAMS) as (processes, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        await _start_loud(processes, address)
        await serving_workers(channel, 2)
        for _ in range(rounds):
            alone.append(await _gap_ms(channel))
            before = _rss(processes)
            async with _silent(channel, address):
                each.append((_rss(processes) - before) / READERS)
                beside.append(await _gap_ms(channel))
    ratios = [ours / theirs for ours, theirs in zip(beside, alone, strict=True)]
    figure.value, figure.control_value = statistics.median(beside), statistics.median(alone)
    figure.ratio, figure.spread = statistics.median(ratios), (min(ratios), max(ratios))
    # What is freed with the first round's clients is used again by the next one's, so the first round tells.
    figure.met = figure.ratio <= RATIO_MAX and each[0] <= BYTES_EACH_MAX
    figure.n, figure.load_average = rounds, os.getloadavg()[0]
    figure.note = f"{READERS:,} clients that read nothing, {each[0]:,.0f} bytes each at the queen"
    return figure


async def _start_loud(processes: Group, queen: str) -> None:
    """Start a second worker, which answers as fast as its tokens are taken."""
    await processes.start(
        "loud", "beeyard_worker", "--worker-id=loud", f"--queen={queen}", "--pool-id=bench",
        "--listen=127.0.0.1:0", "--engine=synthetic", "--model=loud", "--model-source=0",
        "--slots=1", "--context-tokens=40000", "--kv-tokens=40000", "--log-level=warning",
    )  # fmt: skip


async def _gap_ms(channel: grpc.aio.Channel) -> float:
    """Follow answers for a while; return the 99th percentile of the time between what comes of one, milliseconds."""
    gaps: list[float] = []
    stub = rpc.InferenceServiceStub(channel)

    async def follow(index: int) -> None:
        request = pb.InferRequest(
            model="synthetic", prompt=f"stream {index}", max_tokens=30_000, seed=index
        )
        call = stub.Infer(request)
        last, job_id = 0.0, ""
        try:
            async for event in call:
                now, job_id = time.perf_counter(), event.job_id
                if event.HasField("tokens"):
                    if last:
                        gaps.append(1_000 * (now - last))
                    last = now
        finally:
            call.cancel()
            if job_id:
                await stub.CancelJob(pb.CancelJobRequest(job_id=job_id))

    streams = [asyncio.create_task(follow(index)) for index in range(STREAMS)]
    await asyncio.sleep(MEASURED_S)
    for stream in streams:
        stream.cancel()
    endings = await asyncio.gather(*streams, return_exceptions=True)
    broken = [one for one in endings if not isinstance(one, asyncio.CancelledError)]
    assert not broken, f"streams that ended by themselves: {broken}"
    return statistics.quantiles(gaps, n=100)[98]


@asynccontextmanager
async def _silent(channel: grpc.aio.Channel, address: str) -> AsyncIterator[None]:
    """Let clients follow a job that has ended, read its first event and nothing more, until the block ends."""
    stub = rpc.InferenceServiceStub(channel)
    submitted = pb.SubmitJobRequest(model="loud", prompt="bee", max_tokens=TOKENS, seed=7)
    job = await stub.SubmitJob(submitted)
    request = pb.WatchJobRequest(job_id=job.job_id)
    channels = [grpc.aio.insecure_channel(address, options=_OWN) for _ in range(READERS)]
    calls: list[Deaf] = []
    try:
        # As many at once as a busy machine connects before its pings are missed: this is not about crowds.
        for first in range(0, READERS, AT_ONCE):
            new = [
                rpc.InferenceServiceStub(each).WatchJob(request)
                for each in channels[first : first + AT_ONCE]
            ]
            calls += new
            await asyncio.gather(*(call.read() for call in new))
        async for _ in stub.WatchJob(request):
            pass
        yield
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*(each.close(None) for each in channels))


def _rss(processes: Group) -> int:
    return int(psutil.Process(processes.running["queen"].pid).memory_info().rss)
