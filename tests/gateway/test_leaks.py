"""What hundreds of HTTP clients leave behind, those that hung up included: nothing."""

import asyncio

import httpx
import pytest

from tests.support.attached_worker import AttachedWorker, attached_worker
from tests.support.eventually import eventually
from tests.support.running_gateway import (
    TEXT,
    RunningGateway,
    asking,
    running_gateway,
    sent_events,
)
from tests.support.running_queen import RunningQueen

REQUESTS = 300
AT_ONCE = 25
WORDS = (" the", " bee", " finds")


async def serve(worker: AttachedWorker) -> None:
    """Do every job that is offered, until cancelled."""
    number = 0
    while True:
        number += 1
        await worker.serve(await worker.offer(number), *WORDS)


async def ask(gateway: RunningGateway, client: httpx.AsyncClient, number: int) -> str:
    """Send one request in one of the ways in which clients do."""
    body = {**TEXT, "prompt": f"bee {number}", "stream": number % 2 == 0}
    match number % 6:
        case 0:  # hangs up at once
            async with asking(client, "/v1/completions", body):
                await asyncio.sleep(0)
            return "hung up"
        case 1:  # is wrong
            answer = await client.post("/v1/completions", json={**body, "n": 2})
            return str(answer.status_code)
        case 2:  # hangs up in the middle
            async with asking(client, "/v1/completions", body) as asked:
                await anext(sent_events(await asked))
            return "hung up"
        case 3:
            answer = await client.post("/v1/completions", json=body)
            return str(answer.status_code)
        case 4:
            async with client.stream("POST", "/v1/completions", json=body) as response:
                return [event.data async for event in sent_events(response)][-1]
        case _:
            answer = await client.post("/v2/jobs", json=TEXT)
            url = f"{answer.json()['url']}/events"
            async with client.stream("GET", url) as response:
                return [event.event async for event in sent_events(response)][-1]


@pytest.mark.slow
async def test_hundreds_of_requests_leave_no_task_stream_or_call_behind(
    queen: RunningQueen,
) -> None:
    limits = httpx.Limits(max_connections=AT_ONCE)
    async with (
        attached_worker(queen.channel, slots=16) as worker,
        running_gateway(queen.queen.server.address) as gateway,
    ):
        serving = asyncio.create_task(serve(worker))
        url = f"http://{gateway.address}"
        await gateway.client.get("/readyz")
        before = len(asyncio.all_tasks())
        free = asyncio.Semaphore(AT_ONCE)

        async def one(client: httpx.AsyncClient, number: int) -> str:
            async with free:
                return await ask(gateway, client, number)

        async with httpx.AsyncClient(
            base_url=url, timeout=30, trust_env=False, limits=limits
        ) as client:
            stories = await asyncio.gather(*(one(client, n) for n in range(REQUESTS)))
        sixth = REQUESTS // 6
        for told, times in (("hung up", 2), ("400", 1), ("200", 1), ("[DONE]", 1), ("finished", 1)):
            assert stories.count(told) == times * sixth
        state = queen.queen.loop.state
        await eventually(lambda: all(job.is_ended for job in state.jobs.values()), "all jobs end")
        await eventually(lambda: gateway.gateway.server.connections_count <= 1, "they are gone")
        await eventually(lambda: len(asyncio.all_tasks()) <= before, "no task is left")
        assert not len(gateway.gateway.streams)
        assert not gateway.gateway._cancellations._running
        feeds = queen.queen._actor.feeds
        await eventually(lambda: not feeds.by_job, "nobody follows a job any more")
        serving.cancel()
        await asyncio.wait([serving])
