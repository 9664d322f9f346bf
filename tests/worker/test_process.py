"""The worker as a process of its own: ready line, state file, EngineService, SIGTERM, exit codes."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from beeyard.worker.v1 import engine_service_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2_grpc as rpc
from beeyard.worker.v1 import worker_service_pb2_grpc
from beeyard_runtime.rpc_channel import open_channel
from beeyard_runtime.testing import serving
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.attached_queen import AttachedQueen

PATIENCE_S = 30.0
SYNTHETIC = ("--engine", "synthetic", "--model", "syn", "--model-source", "0")


@asynccontextmanager
async def worker(cwd: Path, *flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a worker process and end it hard if the test did not."""
    # No setting of whoever runs the tests reaches the process.
    env = {key: value for key, value in os.environ.items() if not key.startswith("BEEYARD_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "beeyard_worker", "--worker-id", "w1", *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=cwd,
        env=env,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ready(process: asyncio.subprocess.Process) -> dict[str, str]:
    """Return the line by which the process says that it listens."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        line: dict[str, str] = json.loads(await process.stdout.readline())
    return line


async def until_serving(channel: grpc.aio.Channel) -> None:
    """Return once the worker's health says that the model is loaded."""
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    try:
        async with asyncio.timeout(PATIENCE_S):
            async for health in watch:
                if health.status == health_pb2.HealthCheckResponse.SERVING:
                    return
    finally:
        watch.cancel()


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    """Return the exit code and what the process wrote to stderr."""
    async with asyncio.timeout(PATIENCE_S):
        _, stderr = await process.communicate()
    return process.returncode, stderr.decode()


async def test_a_lone_worker_answers_and_ends_cleanly_on_sigterm(tmp_path: Path) -> None:
    state = tmp_path / "w1.json"
    flags = ("--queen", "", *SYNTHETIC, "--slots", "3", "--state-file", str(state))
    async with worker(tmp_path, *flags) as process:
        line = await ready(process)
        assert (line["ready"], line["worker_id"]) == ("worker", "w1")
        record = json.loads(state.read_text())
        assert set(record) == {"worker_id", "pid", "address", "model", "engine", "incarnation"}
        assert (record["pid"], record["address"]) == (process.pid, line["address"])
        async with open_channel(line["address"]) as channel:
            await until_serving(channel)
            stub = rpc.EngineServiceStub(channel)
            status = await stub.GetStatus(pb.GetStatusRequest())
            assert (status.engine, status.slots_total) == ("synthetic", 3)
            request = pb.GenerateRequest(prompt="the honey bee", max_tokens=100, seed=7)
            first = [event async for event in stub.Generate(request)]
            again = [event async for event in stub.Generate(request)]
        ids = [token for event in first for token in event.tokens.ids]
        assert len(ids) == 100
        assert ids == [token for event in again for token in event.tokens.ids]
        assert first[-1].finished.usage.completion_tokens == 100
        process.send_signal(signal.SIGTERM)
        code, stderr = await ended(process)
        assert code == 0, stderr
        assert not state.exists()


async def test_a_worker_with_a_target_opens_slots_as_its_steps_allow(tmp_path: Path) -> None:
    steps = ("--engine", "synthetic", "--model", "syn", "--model-source", "steps:base=2,decode=0")
    planned = ("--slots", "6", "--step-target-ms", "60000", "--prefill-tokens-max", "64")
    async with worker(tmp_path, "--queen", "", *steps, *planned) as process:
        line = await ready(process)
        async with open_channel(line["address"]) as channel:
            await until_serving(channel)
            stub = rpc.EngineServiceStub(channel)
            status = await stub.GetStatus(pb.GetStatusRequest())
            assert (status.slots_total, status.slots_free) == (4, 4)

            async def ask(number: int) -> None:
                request = pb.GenerateRequest(prompt=f"bee {number}", max_tokens=40)
                async for _ in stub.Generate(request):
                    pass

            async with asyncio.timeout(PATIENCE_S):
                while status.slots_total < 6:
                    await asyncio.gather(*(ask(number) for number in range(status.slots_total)))
                    status = await stub.GetStatus(pb.GetStatusRequest())
            assert status.slots_free == 6


async def test_sigterm_lets_a_running_answer_end(tmp_path: Path) -> None:
    rate = ("--engine", "synthetic", "--model", "syn", "--model-source", "100")
    async with worker(tmp_path, "--queen", "", *rate) as process:
        line = await ready(process)
        async with open_channel(line["address"]) as channel:
            await until_serving(channel)
            stub = rpc.EngineServiceStub(channel)
            events = aiter(stub.Generate(pb.GenerateRequest(prompt="bee", max_tokens=40)))
            received = [await anext(events)]
            process.send_signal(signal.SIGTERM)
            received += [event async for event in events]
        assert sum(event.tokens.count for event in received) == 40
        assert received[-1].HasField("finished")
        assert (await ended(process))[0] == 0


async def test_the_drain_call_ends_the_process(tmp_path: Path) -> None:
    async with worker(tmp_path, "--queen", "", *SYNTHETIC) as process:
        line = await ready(process)
        async with open_channel(line["address"]) as channel:
            status = await rpc.EngineServiceStub(channel).Drain(pb.DrainRequest())
            assert status.state == pb.WORKER_STATE_DRAINING
            assert (await ended(process))[0] == 0


async def test_an_abandoned_worker_ends_by_itself(tmp_path: Path) -> None:
    flags = ("--queen", "", *SYNTHETIC, "--supervised", "--supervisor-grace-ms", "1")
    async with worker(tmp_path, *flags) as process:
        assert (await ended(process))[0] == 0


async def test_a_model_that_cannot_be_loaded_is_told_to_the_queen_before_exit_1(
    tmp_path: Path,
) -> None:
    queen = AttachedQueen()
    add = worker_service_pb2_grpc.add_WorkerServiceServicer_to_server
    source = tmp_path / "missing.gguf"
    async with (
        serving((add, queen)) as served,
        worker(
            tmp_path,
            *("--queen", served.address, "--engine", "llamacpp", "--model", "m"),
            *("--model-source", str(source)),
        ) as process,
    ):
        stream = await queen.attachment()
        await stream.welcome()
        failed = stream.hello.status.state == pb.WORKER_STATE_FAILED
        if not failed:
            # One of the regular kind may come first, where loading takes long.
            await stream.until(
                lambda s: any(
                    each.status.state == pb.WORKER_STATE_FAILED for each in s.heartbeats()
                )
            )
            assert stream.heartbeats()[0].status.failure
        code, stderr = await ended(process)
        assert code == 1
        assert [line for line in stderr.splitlines() if line.startswith("beeyard worker: m: ")]
        assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--engine", "synthetic", "--model", "m", "--model-source", "fast"), 2, "tokens a second"),
        (("--engine", "llamacpp", "--model", "m"), 2, "model_source must be set"),
        ((*SYNTHETIC, "--step-target-ms", "-1"), 2, "step_target_ms"),
        (("--engine", "warp", "--model", "m"), 2, "engine"),
        ((*SYNTHETIC, "--slots", "0"), 2, "slots"),
        ((*SYNTHETIC, "--listen", "0.0.0.0:0"), 1, "loopback"),
        ((*SYNTHETIC, "--state-file", "no/such/folder/w.json"), 1, "state file"),
    ],
)
async def test_a_wrong_setting_is_one_line_that_names_it(
    tmp_path: Path, flags: tuple[str, ...], code: int, words: str
) -> None:
    async with worker(tmp_path, "--log-level", "error", *flags) as process:
        found, stderr = await ended(process)
    assert (found, words in stderr) == (code, True), stderr
    assert len(stderr.strip().splitlines()) == 1, stderr
