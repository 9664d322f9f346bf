"""The call that brings a job's events from the queen."""

import asyncio

from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard_gateway.following import JobFollow
from beeyard_gateway.queen_link import QueenLink
from beeyard_runtime.clock import SystemClock
from beeyard_runtime.security.dialing import PLAIN
from beeyard_runtime.telemetry import Telemetry

from tests.support import scripted_queen as say
from tests.support.eventually import eventually
from tests.support.scripted_queen import ScriptedQueen, Until, serve


async def test_a_call_that_has_told_everything_is_left_to_its_queen_to_end() -> None:
    # One that is cut in that moment costs a queen memory for good.
    queen, ended = ScriptedQueen(), asyncio.Event()
    queen.infer.append([say.queued(), say.finished(), Until(ended)])
    server, address = await serve(queen)
    link = QueenLink(address, Telemetry(), PLAIN)
    follow = JobFollow(link, SystemClock(), lambda: link.inference.Infer(pb.InferRequest()))

    async def read() -> list[str | None]:
        return [event.WhichOneof("event") async for event in follow.events()]

    try:
        reading = asyncio.create_task(read())
        await eventually(lambda: follow.has_ended, "the last event is there")
        assert not reading.done()
        ended.set()
        assert await reading == ["queued", "finished"]
    finally:
        await link.close()
        await server.stop(grace=None)
