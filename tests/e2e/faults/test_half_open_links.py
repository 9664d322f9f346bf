"""A link that goes silent without being closed is noticed at both ends before the leases on it are over."""

import asyncio
from collections.abc import Callable

import grpc
import pytest
from beeyard.queen.v1 import fleet_service_pb2 as pb
from beeyard.queen.v1 import fleet_service_pb2_grpc as rpc
from beeyard_core import limits

from tests.support.eventually import eventually
from tests.support.lone_fleet import LoneFleet
from tests.support.silent_link import silent_link
from tests.support.soak import figure_of

NOTICED_S_MAX = 10.0
#: What a machine that is busy with other tests may add.
LOAD_S = 3.0


@pytest.mark.slow
async def test_a_link_that_goes_silent_is_noticed_at_both_ends(
    record_property: Callable[[str, object], None],
) -> None:
    now = asyncio.get_running_loop().time
    async with (
        # Leases that live for long, so that it is the keepalive that notices.
        LoneFleet("--lease-ttl-ms", str(limits.LEASE_TTL_MS_MAX)) as fleet,
        silent_link(fleet.queen.address) as link,
        grpc.aio.insecure_channel(link.address) as control,
    ):
        await fleet.start_workers(["far"], slots=1, rate=100, queen=link.address)
        # The control: a stream over the same link, of a client that sends no pings.
        watching = rpc.FleetServiceStub(control).WatchFleet(pb.WatchFleetRequest())
        assert await watching.read()
        log = fleet.folder / "far.log"
        cut_at = now()
        link.cut()
        noticed: dict[str, float] = {}

        def look() -> bool:
            if fleet.log.count("worker_detached", worker_id="far"):
                noticed.setdefault("queen", now() - cut_at)
            if "stream_broke" in log.read_text():
                noticed.setdefault("worker", now() - cut_at)
            return len(noticed) == 2

        await eventually(look, "both ends notice", 60.0, look_again_s=0.05)
        figure_of(
            record_property,
            "half-open link noticed",
            n=1,
            **{f"{end}_s": round(seconds, 1) for end, seconds in noticed.items()},
        )
        assert max(noticed.values()) <= NOTICED_S_MAX + LOAD_S
        assert min(noticed.values()) >= limits.KEEPALIVE_TIMEOUT_MS / 1_000, "nobody told them"
        assert not watching.done(), "without keepalive nothing is noticed"
        watching.cancel()
