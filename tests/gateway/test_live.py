"""The live view: everybody sees the fleet, the queue and the decisions, and the queen is asked once for all."""

import json

import pytest
from beeyard_core import limits
from beeyard_gateway.live_feed import LiveView
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.attached_worker import AttachedWorker, attached_worker
from tests.support.live import next_of, watching
from tests.support.running_gateway import TEXT, RunningGateway, asking, running_gateway
from tests.support.running_queen import RunningQueen, running_queen


async def test_a_view_begins_with_the_whole_picture(
    gateway: RunningGateway, worker: AttachedWorker
) -> None:
    async with watching(gateway) as socket:
        assert (await next_of(socket, "status"))["queen"] == "connected"
        fleet = await next_of(socket, "fleet")
        assert [one["status"]["worker_id"] for one in fleet["workers"]] == ["w1"]
        queue = await next_of(socket, "queue")
        assert (queue["jobs_queued"], queue["jobs_running"]) == (0, 0)
        assert [model["model"] for model in queue["models"]] == ["tiny"]


async def test_changes_are_shown_to_everybody(
    gateway: RunningGateway, queen: RunningQueen, worker: AttachedWorker
) -> None:
    async with watching(gateway) as one, watching(gateway) as two:
        for socket in (one, two):
            await next_of(socket, "queue")
        async with asking(gateway.client, "/v1/completions", TEXT):
            await worker.offer()
            await queen.tick(limits.LIVE_INTERVAL_MS)
            for socket in (one, two):
                while (await next_of(socket, "queue"))["jobs_running"] != 1:
                    pass


async def test_a_view_can_ask_for_less(gateway: RunningGateway, worker: AttachedWorker) -> None:
    async with watching(gateway, "?topics=queue") as socket:
        kinds = {json.loads(await socket.recv())["type"] for _ in range(2)}
    assert kinds == {"status", "queue"}
    async with watching(gateway, "?topics=bees") as socket:
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, "fleet" in closed.value.rcvd.reason) == (1008, True)


async def test_a_page_of_another_site_sees_nothing(gateway: RunningGateway) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with watching(gateway, origin="http://evil.example"):
            pass
    assert refused.value.response.status_code == 403
    async with watching(gateway, origin=f"http://{gateway.address}") as socket:
        assert await socket.recv()


async def test_views_are_bounded(
    gateway: RunningGateway, worker: AttachedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LIVE_SOCKETS_MAX", 1)
    async with watching(gateway) as one, watching(gateway) as two:
        with pytest.raises(ConnectionClosed) as closed:
            await two.recv()
        assert await one.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013


async def test_a_queen_that_goes_away_is_told_and_looked_for() -> None:
    async with running_queen() as queen:
        address = queen.queen.server.address
        async with running_gateway(address) as gateway, watching(gateway) as socket:
            await next_of(socket, "fleet")
            await stop(queen)
            while (await next_of(socket, "status"))["queen"] == "connected":
                pass
            async with running_queen(listen=address) as later, attached_worker(later.channel):
                while not (await next_of(socket, "fleet"))["workers"]:
                    pass


async def stop(queen: RunningQueen) -> None:
    await queen.channel.close(None)
    await queen.queen.server.stop(0)


async def test_the_end_of_the_gateway_closes_every_view(
    gateway: RunningGateway, worker: AttachedWorker
) -> None:
    async with watching(gateway) as socket:
        await socket.recv()
        gateway.stop.set()
        async for _ in socket:  # ends with a close that means no harm
            pass
    assert socket.close_code == 1001


async def test_a_slow_view_gets_the_newest_picture_and_loses_the_oldest_decisions() -> None:
    view = LiveView(frozenset({"fleet", "decisions"}))
    for number in range(limits.LIVE_DECISIONS_KEPT_MAX + 10):
        view.put("fleet", f"fleet {number}")
        view.put("decisions", f"decision {number}")
        view.put("queue", "not asked for")
    first, *decisions = await view.next()
    assert first == f"fleet {number}"
    assert decisions == [f"decision {n}" for n in range(10, number + 1)]
