"""accepted_jobs and jobs_end_to_end: durable acceptance, and one-token jobs from submission to their end.

Controls: a bare unary echo, and a bare relay that carries the same one-token jobs over one stream on either side.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import grpc
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import inference_service_pb2_grpc

from benchmarks.bare_relay import SAME
from benchmarks.client import serving_worker
from benchmarks.measure import Figure, Sample, compare
from benchmarks.processes import Group, group, spent, stack

Stream: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"
CLIENTS = 64
WARM_S = 0.5
MEASURED_S = 2.0


async def measure_accepted(rounds: int) -> Figure:
    """Measure accepted_jobs."""
    figure = Figure("accepted_jobs", "jobs/s", "bare unary echo, 64 in flight", 0.45)
    return await compare(figure, _accepted, _echo, rounds=rounds)


async def measure_end_to_end(rounds: int) -> Figure:
    """Measure jobs_end_to_end."""
    figure = Figure(
        "jobs_end_to_end", "jobs/s", "bare multiplexed relay of one-token jobs, 64 in flight", 0.5
    )
    return await compare(figure, _end_to_end, _relayed, rounds=rounds)


async def _accepted() -> Sample:
    # One slot and a token a second: jobs are accepted and wait.
    async with (
        stack(rate="1", slots=1) as (processes, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        await serving_worker(channel)
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        request = pb.SubmitJobRequest(prompt="a job that waits", max_tokens=64)

        async def submit() -> None:
            job = await stub.SubmitJob(request, timeout=30)
            assert job.job_id

        return await _closed_loop(processes, submit)


async def _echo() -> Sample:
    async with group() as processes:
        address = await processes.start("server", "benchmarks.bare_relay", "relay")
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.unary_unary("/bare.Relay/Echo", SAME, SAME)

            async def echo() -> None:
                assert await call(b"a job that waits", timeout=30)

            return await _closed_loop(processes, echo)


async def _end_to_end() -> Sample:
    async with (
        stack(rate="0", slots=CLIENTS) as (processes, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        await serving_worker(channel)
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        request = pb.InferRequest(prompt="one token", max_tokens=1)

        async def infer() -> None:
            tokens, ended = 0, False
            async for event in stub.Infer(request, timeout=30):
                match event.WhichOneof("event"):
                    case "tokens":
                        tokens += event.tokens.count
                    case "finished":
                        ended = True
                    case _:
                        pass
            assert tokens == 1
            assert ended

        return await _closed_loop(processes, infer)


async def _relayed() -> Sample:
    async with group() as processes:
        address = await processes.start("relay", "benchmarks.bare_relay", "relay")
        await processes.start("worker", "benchmarks.bare_relay", "answer", address)
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.stream_stream("/bare.Relay/Jobs", SAME, SAME)(None)
            answers: dict[bytes, asyncio.Future[None]] = {}
            reader = asyncio.create_task(_read(call, answers))
            waiting: deque[bytes] = deque()
            woken = asyncio.Event()
            writer = asyncio.create_task(_write(call, waiting, woken))
            count = 0

            async def job() -> None:
                nonlocal count
                count += 1
                name = count.to_bytes(8, "big")
                waiter = answers[name] = asyncio.get_running_loop().create_future()
                waiting.append(name)
                woken.set()
                await waiter

            try:
                return await _closed_loop(processes, job)
            finally:
                reader.cancel()
                writer.cancel()
                call.cancel()


async def _write(call: Stream, waiting: deque[bytes], woken: asyncio.Event) -> None:
    """Send what waits; a stream takes one write at a time."""
    while True:
        await woken.wait()
        woken.clear()
        while waiting:
            await call.write(waiting.popleft())


async def _read(call: Stream, answers: dict[bytes, asyncio.Future[None]]) -> None:
    async for name in call:
        waiter = answers.pop(name)
        if not waiter.done():
            waiter.set_result(None)


async def _closed_loop(processes: Group, act: Callable[[], Awaitable[None]]) -> Sample:
    """Let 64 clients act one after the other each, and count what ends in a window after the warm-up."""
    done = 0

    async def client() -> None:
        nonlocal done
        while True:
            await act()
            done += 1

    tasks = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    try:
        await asyncio.sleep(WARM_S)
        before, began, cpu = done, time.perf_counter(), processes.cpu_s()
        await asyncio.sleep(MEASURED_S)
        seconds = time.perf_counter() - began
        for task in tasks:
            if task.done():
                task.result()
        return Sample(done - before, seconds, spent(cpu, processes.cpu_s()))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
