"""relay_tokens: tokens a second over 64 saturated streams, synthetic engine -> queen -> Python gRPC client.

Control: a bare relay of three processes on grpc.aio with identity serializers, one token a message, which is what a
relay in Python does without a design of its own.

An engine that makes sixteen tokens of a job at once hands the relay its batches ready-made, so that is measured twice:
for relay_tokens_stepwise the engine makes one token of each job in a step, as a model does, and what is joined, the
worker and the queen have joined.
"""

import asyncio
import time
from collections.abc import Coroutine

import grpc
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import inference_service_pb2_grpc

from benchmarks.bare_relay import SAME
from benchmarks.client import serving_worker
from benchmarks.measure import Figure, Sample, compare
from benchmarks.processes import Group, group, spent, stack

STREAMS = 64
WARM_S = 0.7
MEASURED_S = 2.0
CONTROL = "bare three-process grpc.aio relay, one token a message"
TARGET = 5.0


async def measure(rounds: int) -> Figure:
    """Measure relay_tokens."""
    figure = Figure("relay_tokens", "tokens/s", CONTROL, TARGET)
    return await compare(figure, _batched, _control, rounds=rounds)


async def measure_stepwise(rounds: int) -> Figure:
    """Measure relay_tokens_stepwise."""
    figure = Figure("relay_tokens_stepwise", "tokens/s", CONTROL, TARGET)
    return await compare(figure, _stepwise, _control, rounds=rounds)


async def _batched() -> Sample:
    return await _subject(step_tokens=0)


async def _stepwise() -> Sample:
    return await _subject(step_tokens=1)


async def _subject(*, step_tokens: int) -> Sample:
    async with (
        stack(rate="0", slots=STREAMS, step_tokens=step_tokens) as (processes, address),
        grpc.aio.insecure_channel(address) as channel,
    ):
        await serving_worker(channel)
        stub = inference_service_pb2_grpc.InferenceServiceStub(channel)
        counts = [0] * STREAMS

        async def follow(index: int) -> None:
            while True:
                request = pb.InferRequest(prompt=f"stream {index}", max_tokens=32_000, seed=index)
                call = stub.Infer(request)
                try:
                    async for event in call:
                        if event.HasField("tokens"):
                            counts[index] += event.tokens.count
                finally:
                    call.cancel()

        return await _window(processes, counts, [follow(index) for index in range(STREAMS)])


async def _control() -> Sample:
    async with group() as processes:
        relay = await processes.start("relay", "benchmarks.bare_relay", "relay")
        await processes.start("source", "benchmarks.bare_relay", "source", relay, str(STREAMS))
        async with grpc.aio.insecure_channel(relay) as channel:
            counts = [0] * STREAMS

            async def follow(index: int) -> None:
                call = channel.unary_stream("/bare.Relay/Follow", SAME, SAME)(
                    index.to_bytes(2, "big")
                )
                try:
                    async for _ in call:
                        counts[index] += 1
                finally:
                    call.cancel()

            return await _window(processes, counts, [follow(index) for index in range(STREAMS)])


async def _window(
    processes: Group, counts: list[int], followers: list[Coroutine[None, None, None]]
) -> Sample:
    """Let all streams run, and count what arrives in a window after the warm-up."""
    tasks = [asyncio.create_task(follower) for follower in followers]
    try:
        await asyncio.sleep(WARM_S)
        before, began, cpu = sum(counts), time.perf_counter(), processes.cpu_s()
        await asyncio.sleep(MEASURED_S)
        seconds = time.perf_counter() - began
        for task in tasks:
            if task.done():
                task.result()
        return Sample(sum(counts) - before, seconds, spent(cpu, processes.cpu_s()))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
