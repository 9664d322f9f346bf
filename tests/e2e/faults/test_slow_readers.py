"""Clients that do not read: they cost the queen little, hold up nobody, and miss nothing once they read."""

import asyncio
from collections.abc import Callable

import grpc
import psutil
import pytest
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import inference_service_pb2_grpc as rpc
from beeyard.queen.v1 import job_pb2
from beeyard_client import BeeyardClient
from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.rpc_errors import from_error

from tests.support.attached_worker import attached_worker
from tests.support.clients_under_fire import Book, Gathered, options_of
from tests.support.eventually import eventually
from tests.support.expected_answer import Answer, Asked
from tests.support.lone_fleet import LoneFleet
from tests.support.soak import figure_of, scaled

READERS = scaled(200, 1_000)
TOKENS = 30_000
CONTEXT = 40_000
#: Longer than a machine under load may keep a client from reading.
STALL_MS = 3 * limits.STREAM_STALL_MS_MIN
BYTES_EACH_MAX = 64 << 10
#: Of its own for each client, as they have it in the field.
ALONE = (("grpc.use_local_subchannel_pool", 1),)

#: A client's own buffers, as small as the queen's.
SMALL = (*ALONE, ("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536))

Call = grpc.aio.UnaryStreamCall[pb.WatchJobRequest, job_pb2.JobEvent]


def rss_bytes(fleet: LoneFleet) -> int:
    return int(psutil.Process(fleet.queen.pid).memory_info().rss)


async def ids_of(call: Call, ids: list[int] | None = None, first: int = 0) -> list[int]:
    """Read a stream to its end, from the token index `first` on; what came is in `ids` even if it breaks."""
    ids = [] if ids is None else ids
    while isinstance(event := await call.read(), job_pb2.JobEvent):
        assert event.tokens.first_index == first + len(ids) or not event.HasField("tokens")
        ids += event.tokens.ids
    return ids


@pytest.mark.slow
async def test_one_that_never_reads_is_cut_and_goes_on_where_it_was() -> None:
    asked = Asked("long", "bee", TOKENS, seed=7)
    expected = await Answer.to(asked)
    async with (
        LoneFleet("--reader-stall-ms", str(STALL_MS)) as fleet,
        BeeyardClient(fleet.queen.address) as client,
        grpc.aio.insecure_channel(fleet.queen.address, options=SMALL) as channel,
    ):
        await fleet.start_workers(["w"], slots=1, rate=0, context_tokens=CONTEXT)
        job = await client.submit(asked.prompt, **options_of(asked))  # type: ignore[arg-type]
        stub = rpc.InferenceServiceStub(channel)
        deaf = stub.WatchJob(pb.WatchJobRequest(job_id=job.job_id))
        # Whoever reads gets the whole answer meanwhile.
        call = stub.WatchJob(pb.WatchJobRequest(job_id=job.job_id))
        assert tuple(await ids_of(call)) == expected.ids
        await eventually(
            lambda: fleet.log.count("reader_stalled"), "it is cut", 30, look_again_s=0.1
        )
        # It has what was sent before, and the reason behind it; from there on it misses nothing.
        ids: list[int] = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ids_of(deaf, ids)
        assert from_error(caught.value).reason is Refusal.READER_STALLED
        assert 0 < len(ids) < TOKENS
        request = pb.WatchJobRequest(job_id=job.job_id, from_token=len(ids))
        ids += await ids_of(stub.WatchJob(request), first=len(ids))
        assert tuple(ids) == expected.ids


@pytest.mark.slow
@pytest.mark.soak
async def test_clients_that_never_read_cost_little_and_miss_nothing(
    record_property: Callable[[str, object], None],
) -> None:
    asked = Asked("long", "bee", TOKENS, seed=7)
    expected = await Answer.to(asked)
    async with LoneFleet() as fleet, BeeyardClient(fleet.queen.address) as client:
        address = fleet.queen.address
        # No worker with a slot yet: the job waits, and everybody is connected before the first token.
        async with attached_worker(fleet.channel(address), "full", slots=0, context_tokens=CONTEXT):
            job = await client.submit(asked.prompt, **options_of(asked))  # type: ignore[arg-type]
        channels = [grpc.aio.insecure_channel(address, options=ALONE) for _ in range(READERS)]
        calls: list[Call] = []
        try:
            request = pb.WatchJobRequest(job_id=job.job_id)
            for channel in channels:
                calls.append(rpc.InferenceServiceStub(channel).WatchJob(request))  # noqa: PERF401
            await asyncio.gather(*(call.read() for call in calls))
            before = rss_bytes(fleet)
            await fleet.start_workers(["w"], slots=1, rate=0, context_tokens=CONTEXT)
            gathered = Gathered(asked, Book())
            # Whoever reads gets the whole answer, however many do not.
            async for event in client.watch(job.job_id):
                gathered.take(event)
            assert tuple(gathered.ids) == expected.ids
            grown = rss_bytes(fleet) - before
            # One that reads after all has missed nothing; another goes on by index on another stream.
            assert tuple(await ids_of(calls[0])) == expected.ids
            late = client.watch(job.job_id, TOKENS - 10)
            assert await late.text()
            assert late.token_ids == expected.ids[-10:]
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*(channel.close(None) for channel in channels))
    figure_of(record_property, "slow readers", n=READERS, bytes_each=grown // READERS)
    assert grown / READERS <= BYTES_EACH_MAX
    # The control: each of them was owed more than that.
    assert len(expected.text) > 2 * BYTES_EACH_MAX
