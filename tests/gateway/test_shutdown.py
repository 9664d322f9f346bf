"""The end of a gateway: nothing new, what runs may end, the rest is told to come back."""

import asyncio

import httpx
import pytest
from beeyard_core import limits
from beeyard_runtime.testing import ManualClock

from tests.support.attached_worker import AttachedWorker
from tests.support.eventually import eventually
from tests.support.running_gateway import TEXT, asking, running_gateway, sent_events
from tests.support.running_queen import RunningQueen

STREAM = {**TEXT, "stream": True}
GRACE_MS = 5_000


async def test_a_running_answer_may_end_within_the_grace(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    address, clock = queen.queen.server.address, ManualClock()
    async with (
        running_gateway(address, clock=clock, drain_grace_ms=GRACE_MS) as gateway,
        asking(gateway.client, "/v1/completions", STREAM) as asked,
    ):
        offer = await worker.offer()
        await worker.accept(offer)
        await worker.tokens(offer, 0, " the")
        events = sent_events(await asked)
        await anext(events)
        gateway.stop.set()
        await eventually(lambda: clock.sleepers == 2, "it drains")
        listeners = gateway.gateway.server._server.servers
        await eventually(lambda: not any(one.is_serving() for one in listeners), "it is closed")
        async with httpx.AsyncClient(trust_env=False) as late:
            with pytest.raises(httpx.ConnectError):
                await late.get(f"http://{gateway.address}/healthz")
        await worker.finish(offer, 1)
        *_, last = [event async for event in events]
        assert last.data == "[DONE]"


async def test_whoever_probes_it_learns_that_it_ends_before_its_door_is_closed(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    address, clock = queen.queen.server.address, ManualClock()
    async with running_gateway(address, clock=clock, drain_lead_ms=GRACE_MS) as gateway:
        assert (await gateway.client.get("/readyz")).status_code == 200
        gateway.stop.set()
        await eventually(lambda: clock.sleepers == 2, "it leads")
        async with httpx.AsyncClient(trust_env=False) as late:
            told = await late.get(f"http://{gateway.address}/readyz")
            assert (told.status_code, told.json()) == (503, {"status": "draining"})
            # Requests that come nevertheless are answered.
            asked = asyncio.create_task(
                late.post(f"http://{gateway.address}/v1/completions", json=TEXT)
            )
            await worker.serve(await worker.offer(), " the", " bee", " finds", " its")
            assert (await asked).status_code == 200
        await clock.advance(GRACE_MS)
        await gateway.running
        async with httpx.AsyncClient(trust_env=False) as late:
            with pytest.raises(httpx.ConnectError):
                await late.get(f"http://{gateway.address}/readyz")


async def test_what_does_not_end_within_the_grace_is_told_to_come_back(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    address, clock = queen.queen.server.address, ManualClock()
    async with running_gateway(address, clock=clock, drain_grace_ms=GRACE_MS) as gateway:
        key = {"Idempotency_Key": "k"}
        async with asking(gateway.client, "/v1/completions", STREAM, **key) as asked:
            offer = await worker.offer()
            await worker.accept(offer)
            await worker.tokens(offer, 0, " the")
            events = sent_events(await asked)
            await anext(events)
            gateway.stop.set()
            await eventually(lambda: clock.sleepers == 2, "it drains")
            await clock.advance(GRACE_MS)
            (last,) = [event async for event in events]
            assert last.json["error"]["reason"] == "DRAINING"
            assert last.json["error"]["retry_after_ms"] == limits.RECONNECT_MAX_MS
    # The job has a key, so its client may come back to another gateway.
    (job,) = queen.queen.loop.state.jobs.values()
    assert not job.is_ended


async def test_jobs_of_clients_without_a_key_end_with_the_gateway(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    async with (
        running_gateway(queen.queen.server.address) as gateway,
        asking(gateway.client, "/v1/completions", STREAM) as asked,
    ):
        offer = await worker.offer()
        await worker.accept(offer)
        await worker.tokens(offer, 0, " the")
        await anext(sent_events(await asked))
        gateway.stop.set()
        await gateway.running
    (job,) = queen.queen.loop.state.jobs.values()
    assert job.state.name == "CANCELLED"


async def test_who_waits_for_a_whole_answer_or_a_first_token_is_told_to_come_back(
    queen: RunningQueen, worker: AttachedWorker
) -> None:
    async with (
        running_gateway(queen.queen.server.address) as gateway,
        asking(gateway.client, "/v1/completions", TEXT) as whole,
        asking(gateway.client, "/v1/completions", STREAM) as streamed,
    ):
        await worker.offer(2)
        gateway.stop.set()
        for asked in (whole, streamed):
            response = await asked
            assert response.status_code == 503
            assert b"draining" in await response.aread()
            assert response.headers["x-should-retry"] == "true"
        await gateway.running
    states = [job.state.name for job in queen.queen.loop.state.jobs.values()]
    assert states == ["CANCELLED", "CANCELLED"]
