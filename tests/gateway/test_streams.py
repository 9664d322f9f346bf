"""A streamed completion: what comes when, and what failing, hanging up and coming back look like."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest
from beeyard_core.job import Job
from beeyard_queen.store.memory import MemoryStore

from tests.support.attached_worker import AttachedWorker, attached_worker, failed_of, held
from tests.support.eventually import eventually
from tests.support.gated_store import GatedStore
from tests.support.running_gateway import (
    CHAT,
    TEXT,
    RunningGateway,
    SentEvent,
    asking,
    running_gateway,
    sent_events,
)
from tests.support.running_queen import RunningQueen, running_queen

STREAM = {**TEXT, "stream": True}


def the_job(queen: RunningQueen) -> Job:
    (job,) = queen.queen.loop.state.jobs.values()
    return job


async def until_cancelled(queen: RunningQueen) -> None:
    await eventually(lambda: the_job(queen).state.name == "CANCELLED", "the job is cancelled")


def words(events: list[SentEvent]) -> str:
    chunks = [event.json for event in events if event.data.startswith("{")]
    return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])


async def rest_of(events: AsyncIterator[SentEvent]) -> list[SentEvent]:
    return [event async for event in events if event.event != ":"]


async def test_the_first_token_is_there_before_the_second_is_made(
    gateway: RunningGateway, worker: AttachedWorker
) -> None:
    async with asking(gateway.client, "/v1/completions", STREAM) as asked:
        offer = await worker.offer()
        await worker.accept(offer)
        await worker.tokens(offer, 0, " the")
        events = sent_events(await asked)
        first = await anext(events)
        assert (first.id, words([first])) == ("0", " the")
        await worker.tokens(offer, 1, " queen", " flew")
        # Two tokens that came together leave together; `id` is the index of the last.
        second = await anext(events)
        assert (second.id, words([second])) == ("2", " queen flew")
        await worker.finish(offer, 3)
        *_, done = await rest_of(events)
        assert done.data == "[DONE]"


async def test_a_chat_stream_says_once_who_speaks(
    gateway: RunningGateway, worker: AttachedWorker
) -> None:
    async with asking(gateway.client, "/v1/chat/completions", {**CHAT, "stream": True}) as asked:
        offer = await worker.offer()
        assert [m.content for m in offer.request.messages] == ["bee"]
        await worker.serve(offer, " the", " hive")
        events = await rest_of(sent_events(await asked))
    deltas = [e.json["choices"][0]["delta"] for e in events if e.data != "[DONE]"]
    assert [d.get("role") for d in deltas] == ["assistant", *[None] * (len(deltas) - 1)]
    assert "".join(d.get("content", "") for d in deltas) == " the hive"
    last = events[-2].json["choices"][0]
    assert (last["delta"], last["finish_reason"]) == ({}, "length")


async def test_nothing_is_answered_before_there_is_something_to_tell(
    gateway: RunningGateway, queen: RunningQueen, worker: AttachedWorker
) -> None:
    async with asking(gateway.client, "/v1/completions", {**STREAM}) as asked:
        offer = await worker.offer()
        await worker.accept(offer)
        await eventually(lambda: the_job(queen).attempt == 1, "the attempt began")
        assert not asked.done()
        await worker.report(results=[failed_of(offer.epoch, "PARSE_ERROR")])
        response = await asked
        # It never began, so it is an error and no stream.
        assert response.status_code == 500
        body = await response.aread()
    assert b"PARSE_ERROR" in body
    assert response.headers["x-should-retry"] == "false"


async def test_a_failure_after_the_first_token_is_told_inside_the_stream(
    gateway: RunningGateway, worker: AttachedWorker
) -> None:
    async with asking(gateway.client, "/v1/completions", STREAM) as asked:
        offer = await worker.offer()
        await worker.accept(offer)
        await worker.tokens(offer, 0, " the")
        events = sent_events(await asked)
        await anext(events)
        await worker.report(results=[failed_of(offer.epoch, "PARSE_ERROR")])
        last = (await rest_of(events))[-1]
    assert last.json["error"]["code"] == "parse_error"
    assert last.json["error"]["retriable"] is False


async def test_who_waits_in_the_queue_is_told_so_and_learns_the_place(
    gateway: RunningGateway, worker: AttachedWorker
) -> None:
    busy = asking(gateway.client, "/v1/completions", STREAM)
    busy_too = asking(gateway.client, "/v1/completions", STREAM)
    async with busy, busy_too:
        await worker.offer(2)
        async with asking(gateway.client, "/v1/completions", STREAM) as third:
            response = await third
            assert response.status_code == 200
            assert response.headers["x-queue-position"] == "0"
            comment = await anext(sent_events(response))
            assert (comment.event, comment.data) == (":", "queued, 0 ahead")


async def test_hanging_up_cancels_the_job(
    gateway: RunningGateway, queen: RunningQueen, worker: AttachedWorker
) -> None:
    async with asking(gateway.client, "/v1/completions", STREAM) as asked:
        offer = await worker.offer()
        await worker.accept(offer)
        await worker.tokens(offer, 0, " the")
        await anext(sent_events(await asked))
    await until_cancelled(queen)
    await worker.until(lambda orders: orders.revocations, "it is stopped")
    await eventually(
        lambda: gateway.gateway.metrics.exposition().count(b'"hang_up"} 1'), "it counts"
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/completions", TEXT), ("/v1/chat/completions", {**CHAT, "stream": True})],
    ids=["whole", "streamed"],
)
async def test_hanging_up_before_the_first_token_cancels_the_job(
    gateway: RunningGateway,
    queen: RunningQueen,
    worker: AttachedWorker,
    path: str,
    body: dict[str, object],
) -> None:
    async with asking(gateway.client, path, body):
        await eventually(lambda: queen.queen.loop.state.jobs, "the job is accepted")
    await until_cancelled(queen)


async def test_hanging_up_before_the_job_is_accepted_cancels_it_as_soon_as_it_has_a_name() -> None:
    store = GatedStore()
    async with (
        running_queen(store) as queen,
        attached_worker(queen.channel),
        running_gateway(queen.queen.server.address) as gateway,
    ):
        store.shut()
        async with asking(gateway.client, "/v1/completions", STREAM):
            await store.somebody_waits()
        # The client is gone, and nobody has been told what its job is called.
        store.pass_all()
        await until_cancelled(queen)


async def test_a_store_that_is_away_is_a_503_that_may_pass() -> None:
    store = GatedStore()
    async with (
        running_queen(store) as queen,
        attached_worker(queen.channel),
        running_gateway(queen.queen.server.address) as gateway,
    ):
        store.shut()
        async with asking(gateway.client, "/v1/completions", TEXT) as asked:
            await store.somebody_waits()
            store.fail_all()
            response = await asked
            body = await response.aread()
        await queen.clock.advance(5_000)
        await eventually(lambda: queen.queen.loop.is_store_healthy, "the store heals")
    assert response.status_code == 503
    assert b"store_unavailable" in body
    assert response.headers["x-should-retry"] == "true"


async def test_a_detached_job_goes_on_without_its_client(
    gateway: RunningGateway, queen: RunningQueen, worker: AttachedWorker
) -> None:
    async with asking(gateway.client, "/v1/completions", STREAM, X_Beeyard_Detach="true") as asked:
        offer = await worker.offer()
        await worker.accept(offer)
        await worker.tokens(offer, 0, " the")
        await anext(sent_events(await asked))
    await eventually(lambda: not len(gateway.gateway.streams), "the stream has ended")
    await worker.tokens(offer, 1, " hive")
    await worker.finish(offer, 2)
    await eventually(lambda: the_job(queen).state.name == "COMPLETED", "the job completes")


async def test_a_stream_goes_on_behind_the_last_token_that_came(
    gateway: RunningGateway, queen: RunningQueen, worker: AttachedWorker
) -> None:
    key = {"Idempotency_Key": "k1"}
    async with asking(gateway.client, "/v1/completions", STREAM, **key) as asked:
        offer = await worker.offer()
        await worker.accept(offer)
        await worker.tokens(offer, 0, " the", " queen")
        first = await anext(sent_events(await asked))
    await eventually(lambda: not len(gateway.gateway.streams), "the stream has ended")
    await worker.tokens(offer, 2, " flew")
    # Another gateway knows as much: none keeps anything.
    async with running_gateway(queen.queen.server.address) as other:
        again = {**key, "Last_Event_ID": first.id}
        async with asking(other.client, "/v1/completions", STREAM, **again) as asked:
            events = sent_events(await asked)
            second = await anext(events)
            assert (first.id, second.id) == ("1", "2")
            await worker.finish(offer, 3)
            rest = await rest_of(events)
    assert words([first, second, *rest]) == " the queen flew"
    assert len(queen.queen.loop.state.jobs) == 1


async def test_a_resumption_needs_the_key_that_names_the_job(
    gateway: RunningGateway, worker: AttachedWorker
) -> None:
    for headers, body in (
        ({"Last-Event-ID": "3"}, STREAM),
        ({"Last-Event-ID": "3", "Idempotency-Key": "k"}, TEXT),
        ({"Last-Event-ID": "bee", "Idempotency-Key": "k"}, STREAM),
    ):
        answer = await gateway.client.post("/v1/completions", json=body, headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "Last-Event-ID"


async def test_one_key_names_one_job_and_another_body_is_a_conflict(
    gateway: RunningGateway, worker: AttachedWorker
) -> None:
    headers = {"Idempotency-Key": "once"}
    async with asking(gateway.client, "/v1/completions", TEXT, Idempotency_Key="once") as asked:
        await worker.serve(await worker.offer(), " the", " hive")
        first = await (await asked).aread()
    second = await gateway.client.post("/v1/completions", json=TEXT, headers=headers)
    assert second.json()["choices"] == httpx.Response(200, content=first).json()["choices"]
    other = {**TEXT, "prompt": "wasp"}
    refused = await gateway.client.post("/v1/completions", json=other, headers=headers)
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "request_id_conflict"
    assert refused.headers["x-should-retry"] == "false"


async def test_a_restart_of_the_queen_is_a_pause_in_the_stream() -> None:
    store = MemoryStore()
    async with AsyncExitStack() as first, AsyncExitStack() as second:
        queen = await first.enter_async_context(running_queen(store))
        worker = await first.enter_async_context(attached_worker(queen.channel))
        address = queen.queen.server.address
        gateway = await second.enter_async_context(running_gateway(address))
        asked = await second.enter_async_context(asking(gateway.client, "/v1/completions", STREAM))
        offer = await worker.offer()
        await worker.accept(offer)
        await worker.tokens(offer, 0, " the")
        events = sent_events(await asked)
        begun = await anext(events)
        await first.aclose()
        later = await second.enter_async_context(running_queen(store, listen=address))
        leases = [held(offer.epoch, next_index=1)]
        worker = await second.enter_async_context(attached_worker(later.channel, leases=leases))
        await worker.tokens(offer, 1, " hive")
        await worker.finish(offer, 2)
        rest = await rest_of(events)
    assert words([begun, *rest]) == " the hive"
    assert rest[-1].data == "[DONE]"


async def test_without_a_queen_a_request_waits_a_moment_and_is_sent_back() -> None:
    async with running_gateway("127.0.0.1:1") as gateway:
        answer = await gateway.client.post("/v1/completions", json=TEXT)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "queen_unreachable"
        assert int(answer.headers["retry-after"]) >= 1
        assert (await gateway.client.get("/readyz")).status_code == 503
        assert (await gateway.client.get("/healthz")).status_code == 200
