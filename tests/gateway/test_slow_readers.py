"""Clients that do not read: they cost little, hold nobody up, and are given up in the end."""

import asyncio
import json

from beeyard_core import limits
from beeyard_runtime.testing import ManualClock

from tests.support.attached_worker import AttachedWorker, attached_worker
from tests.support.eventually import eventually
from tests.support.running_gateway import TEXT, asking, running_gateway, sent_events
from tests.support.running_queen import RunningQueen

STREAM = {**TEXT, "max_tokens": 4_000, "stream": True}
#: Far more than the sockets of both sides and gRPC's window hold together.
FLOOD_CHUNKS = 400
WORD = "bee" * 10_000


class DeafClient:
    """A client that asks and never reads."""

    def __init__(self, address: str) -> None:
        self._host, port = address.split(":")
        self._port = int(port)

    async def ask(self, body: object) -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection(self._host, self._port, limit=1)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        raw = json.dumps(body).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(raw) + raw)
        await writer.drain()
        del reader
        return writer


async def flood(worker: AttachedWorker, number: int) -> None:
    offer = await worker.offer(number)
    await worker.accept(offer)
    for index in range(FLOOD_CHUNKS):
        await worker.tokens(offer, index, WORD)


async def test_a_client_that_does_not_read_holds_up_nobody_else_and_is_given_up(
    queen: RunningQueen,
) -> None:
    clock = ManualClock()
    async with (
        attached_worker(queen.channel, slots=2) as worker,
        running_gateway(queen.queen.server.address, clock=clock) as gateway,
    ):
        deaf = await DeafClient(gateway.address).ask(STREAM)
        await flood(worker, 1)
        await eventually(
            lambda: any(s._is_writing for s in gateway.gateway.streams._open), "it waits"
        )
        # Another stream of the same gateway, over the same connection to the queen, is not slowed.
        async with asking(gateway.client, "/v1/completions", STREAM) as asked:
            offer = await worker.offer(2)
            await worker.serve(offer, *([" hum"] * 64))
            events = [event async for event in sent_events(await asked)]
            assert events[-1].data == "[DONE]"
        (stuck,) = gateway.gateway.streams._open
        assert stuck._is_writing
        await clock.advance(limits.HTTP_STALL_MS + limits.HTTP_SILENCE_MS)
        await eventually(lambda: not len(gateway.gateway.streams), "it is given up")
        job = next(iter(queen.queen.loop.state.jobs.values()))
        await eventually(lambda: job.is_ended, "its job is cancelled")
        assert job.state.name == "CANCELLED"
        deaf.close()


async def test_a_silent_stream_is_kept_awake(queen: RunningQueen) -> None:
    clock = ManualClock()
    async with (
        attached_worker(queen.channel) as worker,
        running_gateway(queen.queen.server.address, clock=clock) as gateway,
        asking(gateway.client, "/v1/completions", STREAM) as asked,
    ):
        await worker.accept(await worker.offer())
        await eventually(lambda: len(gateway.gateway.streams), "it follows")
        await clock.advance(2 * limits.HTTP_SILENCE_MS)
        comment = await anext(sent_events(await asked))
        assert (comment.event, comment.data) == (":", "waiting")
