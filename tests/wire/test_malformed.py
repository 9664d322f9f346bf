"""Bytes that are no message are the caller's mistake, on every method of every service, and cost the server nothing."""

import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from beeyard.pool.v1 import pool_service_pb2 as pool_pb
from beeyard.pool.v1 import snapshot_pb2 as snapshot_pb
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard.worker.v1 import worker_service_pb2 as worker_pb
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.raw_calls import call, talk
from tests.support.reflection import ServedMethod, served_methods
from tests.support.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")
ROLES = ["queen", "queen_admin", "pool_manager", "pool_manager_admin", "worker"]
SEED = 20_261_121
RANDOM_BODIES = 4
# A tag whose length runs past the end, a number that never ends, a group that is never closed, field number 0.
BROKEN = (b"\x0a\xff\xff\xff\xff\x07", b"\x08\xff", b"\x0b", b"\x00")
INSIDE = re.compile(
    r"[A-Z]\w*(Error|Exception)\b|Traceback|\.py\b|/[\w.-]+/[\w.-]+|google\.protobuf|0x[0-9a-f]{6}"
)


@asynccontextmanager
async def served_by(stack: Stack, role: str) -> AsyncIterator[grpc.aio.Channel]:
    """Open the server of a role; a worker is one of its own, since an empty Drain would end the shared one."""
    match role:
        case "queen":
            yield stack.channel(stack.queen_address)
        case "queen_admin":
            yield stack.channel(stack.queen.admin_address)
        case "pool_manager":
            yield stack.channel(stack.pool_address)
        case "pool_manager_admin":
            yield stack.channel(stack.pool_manager.admin_address)
        case _:
            async with stack.lone_worker() as worker:
                yield stack.channel(worker.address)


def bodies(method: ServedMethod, chance: random.Random) -> list[bytes]:
    """Return bytes that are no message of the method's request type."""
    drawn = [chance.randbytes(chance.randint(1, 64)) for _ in range(50)]
    wrong = [body for body in (*BROKEN, *drawn) if not _is_message(method, body)]
    return wrong[: len(BROKEN) + RANDOM_BODIES]


def _is_message(method: ServedMethod, body: bytes) -> bool:
    try:
        method.request.FromString(body)
    except DecodeError:
        return False
    return True


async def assert_serving(channel: grpc.aio.Channel) -> None:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.ServingStatus.SERVING


@pytest.mark.parametrize("role", ROLES)
async def test_malformed_bytes_are_an_invalid_request(stack: Stack, role: str) -> None:
    chance = random.Random(SEED)
    wrong: list[str] = []
    async with served_by(stack, role) as channel:
        methods = await served_methods(channel)
        assert methods
        for method in methods:
            found = bodies(method, chance)
            assert len(found) >= len(BROKEN), f"{method.path}: too few bodies"
            for body in found:
                told = await call(channel, method, body)
                right = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "beeyard")
                if (told.code, told.reason, told.domain) != right or INSIDE.search(told.message):
                    wrong.append(f"{method.path} {body.hex()}: {told}")
        await assert_serving(channel)
    assert not wrong, "\n".join(wrong)


async def test_a_stream_that_began_well_is_judged_by_each_message() -> None:
    hello = worker_pb.Hello(
        status=engine_pb.EngineStatus(worker_id="w1", model="tiny", engine="synthetic"),
        pool_id="p1",
    )
    snapshot = snapshot_pb.HostSnapshot(pool_id="p1", sequence=1)
    first = {
        "Attach": worker_pb.AttachRequest(hello=hello),
        "Synchronize": pool_pb.SynchronizeRequest(snapshot=snapshot),
    }
    # A queen of its own, whose fleet may be spoilt.
    async with Stack(workers=0) as stack:
        channel = stack.channel(stack.queen_address)
        streams = [m for m in await served_methods(channel) if m.takes_stream]
        ours = {m.path.rpartition("/")[2]: m for m in streams if m.path.startswith("/beeyard.")}
        assert ours.keys() == first.keys()
        for name, method in ours.items():
            told = await talk(channel, method, first[name].SerializeToString(), BROKEN[0])
            right = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "beeyard")
            assert (told.code, told.reason, told.domain) == right, f"{name}: {told}"
        await assert_serving(channel)


@pytest.mark.parametrize("role", ROLES)
async def test_an_empty_message_gets_a_sane_answer(stack: Stack, role: str) -> None:
    insane = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED)
    wrong: list[str] = []
    async with served_by(stack, role) as channel:
        for method in await served_methods(channel):
            if not method.is_unary:
                continue
            told = await call(channel, method, b"")
            is_ours = method.path.startswith("/beeyard.")
            is_bare = told.code is not grpc.StatusCode.OK and is_ours and not told.reason
            # A method of the contract that this version does not have yet says so without a reason.
            is_bare = is_bare and told.code is not grpc.StatusCode.UNIMPLEMENTED
            if told.code in insane or is_bare or INSIDE.search(told.message):
                wrong.append(f"{method.path}: {told}")
    assert not wrong, "\n".join(wrong)
