"""A peer that reads nothing of a stream is slowed, then cut; one that reads, however little, is not."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

import grpc
import pytest
from beeyard.worker.v1 import engine_service_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2_grpc as pb_grpc
from beeyard.worker.v1 import generation_pb2 as tokens_pb
from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.outlet import Outlet
from beeyard_runtime.rpc_errors import RpcRefusal, from_error
from beeyard_runtime.testing import serving

from tests.support.eventually import eventually
from tests.support.scripted import ENGINE_TO_SERVER, scripted_engine
from tests.support.scripted import Context as Ctx

STALL_MS = 300
CHUNK = "bee" * 10_000


Call: TypeAlias = "grpc.aio.UnaryStreamCall[pb.GenerateRequest, pb.GenerateResponse]"


class Flood:
    """Sends chunks for ever, numbered, in the way that is asked for."""

    def __init__(self, *, is_generator: bool) -> None:
        self.sent = 0
        self.has_ended = False
        self._is_generator = is_generator

    def message(self) -> pb.GenerateResponse:
        chunk = tokens_pb.TokenChunk(first_index=self.sent, count=1, text=CHUNK)
        return pb.GenerateResponse(tokens=chunk)

    async def write(self, _request: pb.GenerateRequest, context: Ctx) -> None:
        try:
            while True:
                await context.write(self.message())
                self.sent += 1
        finally:
            self.has_ended = True

    async def generate(self, _request: pb.GenerateRequest, _context: Ctx) -> AsyncIterator[object]:
        try:
            while True:
                yield self.message()
                self.sent += 1
        finally:
            self.has_ended = True

    @property
    def way(self) -> Callable[[pb.GenerateRequest, Ctx], object]:
        return self.generate if self._is_generator else self.write


async def read(call: Call) -> int:
    message = await call.read()
    assert isinstance(message, pb.GenerateResponse)
    return message.tokens.first_index


async def read_all(call: Call, indexes: list[int]) -> None:
    while True:
        indexes.append(await read(call))


@pytest.mark.parametrize("is_generator", [True, False])
async def test_a_peer_that_never_reads_is_cut_and_gets_what_it_was_sent(
    monkeypatch: pytest.MonkeyPatch, *, is_generator: bool
) -> None:
    monkeypatch.setattr(limits, "STATUS_PATIENCE_MS", 50)
    flood = Flood(is_generator=is_generator)
    engine = scripted_engine(generate=flood.way)
    async with serving((ENGINE_TO_SERVER, engine), stall_ms=STALL_MS) as served:
        call = pb_grpc.EngineServiceStub(served.channel).Generate(pb.GenerateRequest())
        assert await read(call) == 0
        await eventually(lambda: flood.has_ended, "it is cut")
        # The method is over, and the server has nothing of it to wait for.
        await eventually(
            lambda: not served.server.call_figures().calls_inflight, "its call is over"
        )
        indexes: list[int] = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_all(call, indexes)
        call.cancel()
    got = len(indexes) + 1
    assert indexes == list(range(1, got))
    assert got in {flood.sent, flood.sent + 1}, "the write that was cut may have gone out"
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    refused = from_error(caught.value)
    assert refused.reason is Refusal.READER_STALLED
    assert refused.retry_after_ms == 0


async def test_a_peer_that_reads_is_not_cut_however_long_it_takes() -> None:
    flood = Flood(is_generator=False)
    engine = scripted_engine(generate=flood.way)
    async with serving((ENGINE_TO_SERVER, engine), stall_ms=STALL_MS) as served:
        call = pb_grpc.EngineServiceStub(served.channel).Generate(pb.GenerateRequest())
        loop = asyncio.get_running_loop()
        over_at = loop.time() + 4 * STALL_MS / 1000
        got = 0
        while loop.time() < over_at:
            assert await read(call) == got
            got += 1
        assert not flood.has_ended
        call.cancel()
        await eventually(lambda: flood.has_ended, "its end is noticed")


class StuckContext:
    """A call whose writes wait for ever."""

    async def write(self, _message: object) -> None:
        await asyncio.get_running_loop().create_future()


async def test_who_is_cut_and_cancelled_at_once_is_cancelled() -> None:
    with Outlet(StuckContext(), 1_000) as outlet:  # type: ignore[arg-type]
        writing = asyncio.create_task(outlet.write("bee"))
        await asyncio.sleep(0)
        for _ in range(3):
            outlet._look()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing


async def test_a_cut_leaves_no_cancellation_behind() -> None:
    async def write(outlet: Outlet) -> int:
        with pytest.raises(RpcRefusal):
            await outlet.write("bee")
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    with Outlet(StuckContext(), 1_000) as outlet:  # type: ignore[arg-type]
        writing = asyncio.create_task(write(outlet))
        await asyncio.sleep(0)
        outlet._look()
        outlet._look()
        assert not writing.done()
        outlet._look()
        assert await writing == 0
