"""Processes that are killed in the middle of an answer, and clients that notice nothing but a pause."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard.queen.v1 import inference_service_pb2_grpc as rpc
from beeyard.queen.v1 import job_pb2
from beeyard_client import BeeyardClient
from beeyard_client.events import Event, Finished, Started, Tokens
from beeyard_client.job import Job

from tests.support.killing import kill_worker
from tests.support.stack import Stack

PROMPT = "The honey bee"
TOKENS = 200
#: Tokens that have come when the process is killed.
KILL_AFTER = 40
SLOW = {"tiny": "synthetic:100"}


async def infer(
    client: BeeyardClient, on_token: Callable[[Started], Awaitable[None]] | None = None
) -> tuple[list[Event], Job]:
    """Run the job; `on_token` is called once, when enough tokens have come to be in the middle."""
    events: list[Event] = []
    stream = client.infer(PROMPT, model="tiny", max_tokens=TOKENS, seed=7)
    count = 0
    async for event in stream:
        events.append(event)
        if isinstance(event, Tokens):
            count += event.count
        if on_token is not None and count >= KILL_AFTER:
            assert stream.started is not None
            await on_token(stream.started)
            on_token = None
    assert on_token is None, "the job ended before anything was killed"
    return events, await client.get(stream.job_id)


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Tokens))


def check_whole(events: list[Event]) -> None:
    """Every token index exactly once and in order, and one ending."""
    tokens = [event for event in events if isinstance(event, Tokens)]
    indexes = [i for t in tokens for i in range(t.first_index, t.first_index + t.count)]
    assert indexes == list(range(TOKENS))
    assert sum(len(t.ids) for t in tokens) == TOKENS
    assert [type(event) for event in events].count(Finished) == 1
    assert isinstance(events[-1], Finished)


@pytest.mark.slow
async def test_a_job_survives_the_death_of_the_queen() -> None:
    async with Stack(models=SLOW) as stack, BeeyardClient(stack.queen_address) as client:
        address = stack.queen_address
        raw = rpc.InferenceServiceStub(stack.channel(address)).Infer(
            pb.InferRequest(model="tiny", prompt="A wasp", max_tokens=TOKENS)
        )

        async def kill_the_queen(_: Started) -> None:
            await stack.kill("queen")
            await stack.queen.start(["--listen", address])

        without_resume = asyncio.ensure_future(_read(raw))
        events, job = await infer(client, kill_the_queen)
        check_whole(events)
        assert job.attempt == 1, "its worker was adopted again and went on"
        assert [e.attempt for e in events if isinstance(e, Started)] == [1]
        # The control: a stream that does not resume breaks, although its job goes on as well.
        assert await without_resume is grpc.StatusCode.UNAVAILABLE
        again, _ = await infer(client)
        assert text_of(again) == text_of(events)


async def _read(
    call: "grpc.aio.UnaryStreamCall[pb.InferRequest, job_pb2.JobEvent]",
) -> grpc.StatusCode:
    """Return how a stream ends."""
    try:
        async for _ in call:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.slow
async def test_a_job_goes_on_on_another_worker_when_its_own_is_killed() -> None:
    async with (
        Stack(models=SLOW, workers=2) as stack,
        BeeyardClient(stack.queen_address) as client,
    ):

        async def kill_the_worker(started: Started) -> None:
            await kill_worker(stack, started.worker_id)

        events, job = await infer(client, kill_the_worker)
        check_whole(events)
        first, second = (event for event in events if isinstance(event, Started))
        assert (first.attempt, second.attempt) == (1, 2)
        assert first.worker_id != second.worker_id
        assert job.attempt == 2
        again, _ = await infer(client)
        assert text_of(again) == text_of(events)


@pytest.mark.slow
async def test_the_workers_of_a_dead_pool_manager_go_on() -> None:
    async with Stack(models=SLOW) as stack, BeeyardClient(stack.queen_address) as client:

        async def kill_the_pool_manager(_: Started) -> None:
            await stack.kill("pool_manager")

        events, job = await infer(client, kill_the_pool_manager)
        check_whole(events)
        assert job.attempt == 1
        # Its successor adopts them: the end of this test finds nothing left behind.
        await stack.restart("pool_manager")
