"""Peers that speak HTTP/2 badly, or not at all: each costs the queen little, and nobody else notices.

What the transport does with them is grpc's; that our options leave it able to is what is shown here.
"""

import asyncio
import random
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from resource import getpagesize

import grpc
import pytest
from beeyard.queen.v1 import inference_service_pb2 as pb
from beeyard_core import limits

from tests.support import raw_http2 as http2
from tests.support.eventually import eventually
from tests.support.raw_http2 import connected
from tests.support.running_queen import RunningQueen, running_queen

SEED = 20_261_126
GROWTH_BYTES_MAX = 128 << 20
CONNECTIONS = 50
STREAMS = 2_000
#: More than grpc lets wait unless it is told otherwise.
CROWD = 2_000
LIST = "/beeyard.queen.v1.InferenceService/ListJobs"
RESOURCE_EXHAUSTED = b"grpc-status\x018"
WATCH = "/beeyard.queen.v1.FleetService/WatchFleet"


def garbage(chance: random.Random) -> bytes:
    return chance.randbytes(chance.choice((1, 24, 4_096)))


def garbage_after_the_preface(chance: random.Random) -> bytes:
    return http2.begin() + chance.randbytes(4_096)


def frames_of_any_kind(chance: random.Random) -> bytes:
    """Frames whose lengths are right and whose rest is not."""
    drawn = (
        http2.frame(
            chance.randrange(12),
            chance.randbytes(chance.randrange(64)),
            stream=chance.randrange(9),
            flags=chance.randrange(256),
        )
        for _ in range(100)
    )
    return http2.begin() + b"".join(drawn)


def another_protocol(chance: random.Random) -> bytes:
    return chance.choice((b"GET / HTTP/1.1\r\nHost: queen\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"))


def half_a_preface(chance: random.Random) -> bytes:
    return http2.PREFACE[: chance.randrange(len(http2.PREFACE))]


def a_header_bomb(chance: random.Random) -> bytes:
    """Calls with twice the metadata that is taken, in two frames each."""
    more = [(b"x-%d" % number, b"x" * 1_000) for number in range(15)]
    rest = b"".join(http2.literal(*pair) for pair in more)
    calls = (
        http2.frame(http2.HEADERS, http2.block(LIST, more), stream=stream)
        + http2.frame(http2.CONTINUATION, rest, stream=stream, flags=http2.END_HEADERS)
        for stream in range(1, chance.randint(20, 100), 2)
    )
    return http2.begin() + b"".join(calls)


def headers_that_never_end(chance: random.Random) -> bytes:
    """One header block in frame after frame, 4 MB of it."""
    bomb = http2.literal(b"x", b"x" * 16_000)
    first = http2.frame(http2.HEADERS, http2.block(LIST), stream=1)
    return http2.begin() + first + http2.frame(http2.CONTINUATION, bomb, stream=1) * 250


def streams_opened_and_reset(chance: random.Random) -> bytes:
    pairs = (
        http2.call(WATCH, 2 * number + 1)
        + http2.frame(http2.RST_STREAM, http2.CANCEL, stream=2 * number + 1)
        for number in range(STREAMS)
    )
    return http2.begin() + b"".join(pairs)


def streams_opened_and_left(chance: random.Random) -> bytes:
    return http2.begin() + b"".join(http2.call(WATCH, 2 * n + 1) for n in range(1_000))


def a_message_said_to_be_of_4_gigabytes(chance: random.Random) -> bytes:
    said = struct.pack(">BI", 0, 2**32 - 1) + b"x" * 1_000
    return http2.begin() + http2.call(LIST, 1) + http2.frame(http2.DATA, said, stream=1)


def a_flood_of_pings(chance: random.Random) -> bytes:
    return http2.begin() + http2.frame(http2.PING, b"\0" * 8) * 20_000


def a_flood_of_settings(chance: random.Random) -> bytes:
    return http2.begin() + http2.frame(http2.SETTINGS, struct.pack(">HI", 4, 1 << 20)) * 5_000


def windows_that_overflow(chance: random.Random) -> bytes:
    more = struct.pack(">I", 2**31 - 1)
    update = http2.frame(http2.WINDOW_UPDATE, more) + http2.frame(
        http2.WINDOW_UPDATE, more, stream=1
    )
    return http2.begin() + http2.call(WATCH, 1) + update * 100


MANY = (garbage, garbage_after_the_preface, frames_of_any_kind, another_protocol, half_a_preface)
FEW = (
    *(a_header_bomb, headers_that_never_end, streams_opened_and_reset, streams_opened_and_left),
    *(a_message_said_to_be_of_4_gigabytes, a_flood_of_pings, a_flood_of_settings),
    windows_that_overflow,
)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * getpagesize()


async def assert_serves(queen: RunningQueen) -> None:
    listed = await queen.inference.ListJobs(pb.ListJobsRequest(), timeout=20)
    assert list(listed.jobs) == []


@pytest.mark.parametrize("attack", [*MANY, *FEW], ids=lambda attack: attack.__name__)
async def test_a_hostile_peer_costs_little(attack: Callable[[random.Random], bytes]) -> None:
    chance = random.Random(SEED)
    async with running_queen() as queen:
        await assert_serves(queen)
        began = resident_bytes()
        for _ in range(CONNECTIONS if attack in MANY else 3):
            async with connected(queen.queen.server.address) as peer:
                await peer.send(attack(chance))
                await assert_serves(queen)
        await eventually(
            lambda: queen.queen.server.call_figures().calls_inflight == 0,
            "no call of theirs runs on",
        )
        await assert_serves(queen)
        grown = resident_bytes() - began
        assert grown < GROWTH_BYTES_MAX, f"{grown >> 20} MiB"


async def test_what_is_too_big_is_refused_before_it_is_there() -> None:
    async with running_queen() as queen:
        async with connected(queen.queen.server.address) as peer:
            await peer.send(a_message_said_to_be_of_4_gigabytes(random.Random(SEED)))
            assert RESOURCE_EXHAUSTED in await peer.hear(b"grpc-status")
        long = ("x-long", "x" * limits.METADATA_BYTES_MAX)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await queen.inference.ListJobs(pb.ListJobsRequest(), metadata=(long,), timeout=20)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_of_a_crowd_that_comes_at_once_everybody_is_answered() -> None:
    async with running_queen() as queen:
        calls = (queen.inference.ListJobs(pb.ListJobsRequest(), timeout=60) for _ in range(CROWD))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert Counter(type(answer).__name__ for answer in answers) == {"ListJobsResponse": CROWD}
