"""Every service can be listed, described and used with grpcurl alone: and grpcurl itself proves it."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.support.go_tools import grpcurl
from tests.support.stack import POOL_ID, Stack

# The first run on a machine compiles grpcurl.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]
CALL_TIMEOUT_S = 30


@pytest.fixture(scope="module")
def command() -> Path:
    return grpcurl()


async def run(command: Path, *arguments: str) -> str:
    """Return what grpcurl prints; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        command,
        *("-plaintext", "-max-time", str(CALL_TIMEOUT_S)),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode()


def messages(printed: str) -> list[dict[str, object]]:
    """Return the JSON objects that grpcurl printed one after the other."""
    decoder = json.JSONDecoder()
    found: list[dict[str, object]] = []
    rest = printed.strip()
    while rest:
        message, end = decoder.raw_decode(rest)
        found.append(message)
        rest = rest[end:].lstrip()
    return found


async def test_the_queen_lists_its_services(command: Path, stack: Stack) -> None:
    listed = (await run(command, stack.queen_address, "list")).split()
    assert set(listed) >= {
        "beeyard.pool.v1.PoolService",
        "beeyard.queen.v1.FleetService",
        "beeyard.queen.v1.InferenceService",
        "beeyard.worker.v1.WorkerService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_the_queen_describes_a_service_and_a_message(command: Path, stack: Stack) -> None:
    service = await run(
        command, stack.queen_address, "describe", "beeyard.queen.v1.InferenceService"
    )
    assert "rpc Infer ( .beeyard.queen.v1.InferRequest ) returns ( stream" in service
    message = await run(command, stack.queen_address, "describe", "beeyard.queen.v1.InferRequest")
    assert "int32 max_tokens = 5" in message


async def test_infer_on_the_queen_streams_a_whole_job(command: Path, stack: Stack) -> None:
    request = json.dumps({"model": "tiny", "prompt": "The honey bee", "maxTokens": 5, "seed": 7})
    printed = await run(
        command,
        *("-d", request, stack.queen_address, "beeyard.queen.v1.InferenceService/Infer"),
    )
    events = messages(printed)
    kinds = [next(key for key in event if key != "job_id") for event in events]
    assert kinds[0] == "queued"
    assert "started" in kinds
    assert kinds[-1] == "finished"
    chunks = [event["tokens"] for event in events if "tokens" in event]
    assert sum(chunk["count"] for chunk in chunks if isinstance(chunk, dict)) == 5


async def test_get_snapshot_on_the_pool_manager(command: Path, stack: Stack) -> None:
    printed = await run(
        command, stack.pool_address, "beeyard.pool.v1.PoolManagerService/GetSnapshot"
    )
    (snapshot,) = messages(printed)
    assert snapshot["pool_id"] == POOL_ID
    assert snapshot["devices"]
    assert snapshot["workers"]


async def test_generate_on_a_lone_worker(command: Path, stack: Stack) -> None:
    request = json.dumps({"prompt": "The honey bee", "maxTokens": 5})
    async with stack.lone_worker() as worker:
        listed = await run(command, worker.address, "list")
        assert "beeyard.worker.v1.EngineService" in listed.split()
        printed = await run(
            command,
            *("-d", request, worker.address, "beeyard.worker.v1.EngineService/Generate"),
        )
    events = messages(printed)
    assert "finished" in events[-1]
    chunks = [event["tokens"] for event in events if "tokens" in event]
    assert sum(chunk["count"] for chunk in chunks if isinstance(chunk, dict)) == 5


@pytest.mark.parametrize("role", ["queen", "pool_manager"])
async def test_the_admin_listener_shows_channelz(command: Path, stack: Stack, role: str) -> None:
    service = stack.queen if role == "queen" else stack.pool_manager
    listed = (await run(command, service.admin_address, "list")).split()
    assert "grpc.channelz.v1.Channelz" in listed
    printed = await run(command, service.admin_address, "grpc.channelz.v1.Channelz/GetServers")
    assert messages(printed)[0]["server"]


@pytest.mark.parametrize("service", ["", "beeyard.queen.v1.InferenceService"])
async def test_health_is_told_for_the_whole_and_for_each_service(
    command: Path, stack: Stack, service: str
) -> None:
    printed = await run(
        command,
        *("-d", json.dumps({"service": service}), stack.queen_address),
        "grpc.health.v1.Health/Check",
    )
    assert messages(printed) == [{"status": "SERVING"}]
