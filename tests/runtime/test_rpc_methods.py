"""Whatever a method does, its caller gets a status of the contract and nothing of the inside."""

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc
import pytest
import structlog
from beeyard.worker.v1 import engine_service_pb2 as pb
from beeyard.worker.v1 import engine_service_pb2_grpc as pb_grpc
from beeyard.worker.v1 import worker_service_pb2 as worker_pb
from beeyard.worker.v1 import worker_service_pb2_grpc as worker_grpc
from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.rpc_channel import stream
from beeyard_runtime.rpc_errors import from_error, refuse
from beeyard_runtime.testing import serving

from tests.support.scripted import (
    ENGINE_TO_SERVER,
    QUEEN_TO_SERVER,
    scripted_engine,
    scripted_queen,
)
from tests.support.scripted import Context as Ctx

# Field 1, length-delimited, says 255 bytes and has none.
_MALFORMED = b"\x0a\xff\x01"
_GET_STATUS = "/beeyard.worker.v1.EngineService/GetStatus"
_GENERATE = "/beeyard.worker.v1.EngineService/Generate"
_ATTACH = "/beeyard.worker.v1.WorkerService/Attach"


async def _status(request: pb.GetStatusRequest, context: Ctx) -> pb.EngineStatus:
    return pb.EngineStatus()


def _assert_invalid(error: grpc.aio.AioRpcError) -> None:
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert from_error(error).reason is Refusal.INVALID_REQUEST
    assert error.details() == "the request is not a valid message of its type"


async def test_malformed_bytes_to_a_unary_method_are_an_invalid_request() -> None:
    async with serving((ENGINE_TO_SERVER, scripted_engine(_status))) as served:
        call = served.channel.unary_unary(_GET_STATUS, None, None)
        assert await call(b"") == b""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(_MALFORMED)
    _assert_invalid(caught.value)


async def test_malformed_bytes_to_a_server_stream_are_an_invalid_request() -> None:
    async def generate(request: pb.GenerateRequest, context: Ctx) -> AsyncIterator[object]:
        yield pb.GenerateResponse()

    async with serving((ENGINE_TO_SERVER, scripted_engine(generate=generate))) as served:
        raw = served.channel.unary_stream(_GENERATE, None, None)
        async with stream(raw(_MALFORMED)) as call:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
    _assert_invalid(caught.value)


async def test_malformed_bytes_within_a_stream_are_an_invalid_request() -> None:
    seen: list[worker_pb.AttachRequest] = []

    async def attach(requests: AsyncIterator[worker_pb.AttachRequest], context: Ctx) -> None:
        async for request in requests:
            seen.append(request)
            await context.write(worker_pb.AttachResponse())

    async with serving((QUEEN_TO_SERVER, scripted_queen(attach))) as served:
        raw = served.channel.stream_stream(_ATTACH, None, None)
        async with stream(raw(None)) as call:
            await call.write(b"")
            assert await call.read() == b""
            await call.write(_MALFORMED)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
    _assert_invalid(caught.value)
    assert len(seen) == 1


async def test_a_refusal_out_of_a_task_group_is_still_a_refusal() -> None:
    async def attach(requests: AsyncIterator[worker_pb.AttachRequest], context: Ctx) -> None:
        async def read() -> None:
            async for _ in requests:
                pass

        async with asyncio.TaskGroup() as group:
            group.create_task(read())
            group.create_task(asyncio.Event().wait())

    async with serving((QUEEN_TO_SERVER, scripted_queen(attach))) as served:
        raw = served.channel.stream_stream(_ATTACH, None, None)
        async with stream(raw(None)) as call:
            await call.write(_MALFORMED)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
    _assert_invalid(caught.value)


@pytest.mark.parametrize("in_group", [False, True])
async def test_a_bug_is_logged_and_answered_without_a_word_about_the_inside(in_group: bool) -> None:
    async def get_status(request: pb.GetStatusRequest, context: Ctx) -> pb.EngineStatus:
        bug = KeyError("/secret/path")
        if in_group:
            raise ExceptionGroup("g", [bug, refuse(Refusal.WORKER_BUSY, "busy")])
        raise bug

    async with serving((ENGINE_TO_SERVER, scripted_engine(get_status))) as served:
        stub = pb_grpc.EngineServiceStub(served.channel)
        with (
            structlog.testing.capture_logs() as lines,
            pytest.raises(grpc.aio.AioRpcError) as caught,
        ):
            await stub.GetStatus(pb.GetStatusRequest())
    error = caught.value
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert from_error(error).reason is Refusal.INTERNAL
    assert "KeyError" not in str(error.trailing_metadata())
    assert "secret" not in f"{error}{error.trailing_metadata()}"
    (line,) = (line for line in lines if line["event"] == "rpc_failed")
    assert isinstance(line["exc_info"], ExceptionGroup if in_group else KeyError)
    assert line["method"] == "beeyard.worker.v1.EngineService/GetStatus"


async def test_a_stream_that_breaks_keeps_what_was_sent_and_says_why() -> None:
    async def generate(request: pb.GenerateRequest, context: Ctx) -> AsyncIterator[object]:
        yield pb.GenerateResponse()
        yield pb.GenerateResponse()
        raise refuse(Refusal.DRAINING, "going away", retry_after_ms=250)

    async with serving((ENGINE_TO_SERVER, scripted_engine(generate=generate))) as served:
        stub = pb_grpc.EngineServiceStub(served.channel)
        async with stream(stub.Generate(pb.GenerateRequest())) as call:
            assert await call.read() == await call.read() == pb.GenerateResponse()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
    assert from_error(caught.value).retry_after_ms == 250


async def test_all_three_ways_to_write_a_stream_are_served() -> None:
    class Three:
        """An async iterator that is no generator: it has no `aclose`."""

        def __init__(self) -> None:
            self.left = 3

        def __aiter__(self) -> "Three":
            return self

        async def __anext__(self) -> pb.GenerateResponse:
            self.left -= 1
            if self.left < 0:
                raise StopAsyncIteration
            return pb.GenerateResponse()

    async def generator(request: pb.GenerateRequest, context: Ctx) -> AsyncIterator[object]:
        for _ in range(3):
            yield pb.GenerateResponse()

    async def writer(request: pb.GenerateRequest, context: Ctx) -> None:
        for _ in range(3):
            await context.write(pb.GenerateResponse())

    def iterator(request: pb.GenerateRequest, context: Ctx) -> Three:
        return Three()

    for generate in (generator, writer, iterator):
        async with serving((ENGINE_TO_SERVER, scripted_engine(generate=generate))) as served:
            stub = pb_grpc.EngineServiceStub(served.channel)
            async with stream(stub.Generate(pb.GenerateRequest())) as call:
                assert [m async for m in call] == [pb.GenerateResponse()] * 3


async def test_a_cancelled_call_cancels_its_method_and_runs_its_finally() -> None:
    cancelled = asyncio.Event()
    closed = asyncio.Event()

    async def generate(request: pb.GenerateRequest, context: Ctx) -> AsyncIterator[object]:
        try:
            yield pb.GenerateResponse()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        finally:
            closed.set()

    async with serving((ENGINE_TO_SERVER, scripted_engine(generate=generate))) as served:
        stub = pb_grpc.EngineServiceStub(served.channel)
        async with stream(stub.Generate(pb.GenerateRequest())) as call:
            await call.read()
        async with asyncio.timeout(5):
            await cancelled.wait()
            await closed.wait()


async def test_a_deadline_that_passes_is_deadline_exceeded_and_cancels_the_method() -> None:
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def get_status(request: pb.GetStatusRequest, context: Ctx) -> pb.EngineStatus:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set_result("cancelled")
            raise
        return pb.EngineStatus()

    async with serving((ENGINE_TO_SERVER, scripted_engine(get_status))) as served:
        stub = pb_grpc.EngineServiceStub(served.channel)
        with (
            structlog.testing.capture_logs() as lines,
            pytest.raises(grpc.aio.AioRpcError) as caught,
        ):
            await stub.GetStatus(pb.GetStatusRequest(), timeout=0.05)
        async with asyncio.timeout(5):
            assert await ended == "cancelled"
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert [line for line in lines if line["log_level"] == "error"] == []


async def test_what_is_not_implemented_says_so() -> None:
    async with serving((ENGINE_TO_SERVER, scripted_engine(_status))) as served:
        stub = pb_grpc.EngineServiceStub(served.channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Drain(pb.DrainRequest())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async with stream(stub.Generate(pb.GenerateRequest())) as call:
                await call.read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        unknown = served.channel.unary_unary("/beeyard.worker.v1.EngineService/Nope", None, None)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unknown(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_an_abort_of_the_methods_own_passes_through() -> None:
    async def get_status(request: pb.GetStatusRequest, context: Ctx) -> pb.EngineStatus:
        await context.abort(grpc.StatusCode.DATA_LOSS, "on purpose")

    async with serving((ENGINE_TO_SERVER, scripted_engine(get_status))) as served:
        stub = pb_grpc.EngineServiceStub(served.channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetStatus(pb.GetStatusRequest())
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.DATA_LOSS,
        "on purpose",
    )


async def test_each_call_leaves_one_access_line() -> None:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG))
    async with serving((ENGINE_TO_SERVER, scripted_engine(_status))) as served:
        stub = pb_grpc.EngineServiceStub(served.channel)
        with structlog.testing.capture_logs() as lines:
            await stub.GetStatus(pb.GetStatusRequest())
    structlog.configure(**before)
    (line,) = (line for line in lines if line["event"] == "rpc_done")
    assert (line["log_level"], line["code"]) == ("debug", "OK")
    assert line["method"] == "beeyard.worker.v1.EngineService/GetStatus"


async def test_a_reader_that_stops_bounds_how_far_the_server_runs_ahead() -> None:
    sent = 0
    moved = asyncio.Event()

    async def attach(requests: AsyncIterator[worker_pb.AttachRequest], context: Ctx) -> None:
        nonlocal sent
        response = worker_pb.AttachResponse()
        # An unknown field of 10 kB: size without meaning.
        response.MergeFromString(b"\xfa\x3f\x90\x4e" + bytes(10_000))
        while True:
            await context.write(response)
            sent += response.ByteSize()
            moved.set()

    async with serving((QUEEN_TO_SERVER, scripted_queen(attach))) as served:
        stub = worker_grpc.WorkerServiceStub(served.channel)
        async with stream(stub.Attach(None)) as call:
            await call.read()
            while True:
                moved.clear()
                try:
                    async with asyncio.timeout(0.5):
                        await moved.wait()
                except TimeoutError:
                    break
    assert 10_000 < sent < 500_000


async def test_a_peer_that_hangs_up_in_mid_stream_is_no_bug() -> None:
    ended = asyncio.Event()

    async def attach(requests: AsyncIterator[worker_pb.AttachRequest], context: Ctx) -> None:
        try:
            while True:
                await context.write(worker_pb.AttachResponse())
        finally:
            ended.set()

    async with serving((QUEEN_TO_SERVER, scripted_queen(attach))) as served:
        stub = worker_grpc.WorkerServiceStub(served.channel)
        with structlog.testing.capture_logs() as lines:
            for _ in range(20):
                ended.clear()
                async with stream(stub.Attach(None)) as call:
                    await call.read()
                async with asyncio.timeout(5):
                    await ended.wait()
            await served.server.stop(0)
    assert [line for line in lines if line["log_level"] == "error"] == []


async def test_a_message_that_cannot_be_sent_still_ends_the_call() -> None:
    async def get_status(request: pb.GetStatusRequest, context: Ctx) -> pb.EngineStatus:
        raise grpc.aio.InternalError

    async with serving((ENGINE_TO_SERVER, scripted_engine(get_status))) as served:
        stub = pb_grpc.EngineServiceStub(served.channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetStatus(pb.GetStatusRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_an_answer_over_the_limit_ends_the_call() -> None:
    async def get_status(request: pb.GetStatusRequest, context: Ctx) -> pb.EngineStatus:
        return pb.EngineStatus(worker_id="x" * (limits.MESSAGE_BYTES_MAX + 1))

    async with serving((ENGINE_TO_SERVER, scripted_engine(get_status))) as served:
        stub = pb_grpc.EngineServiceStub(served.channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetStatus(pb.GetStatusRequest(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
