"""The page about heavy work shows what runs: its commands, its programs and its calls are run here."""

import asyncio
import contextlib
import io
import json
import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from beeyard.queen.v1 import lease_service_pb2 as pb
from google.protobuf import json_format

from tests.support.command import beeyard
from tests.support.lease_requests import report
from tests.support.running_queen import RunningQueen, running_queen

PAGE = Path(__file__).parents[2] / "docs" / "heavy-work.md"
TEXT = PAGE.read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = re.findall(r"^(beeyard .*)$", TEXT, re.MULTILINE)
CALLS = re.findall(
    r"^grpcurl -plaintext (?:-d '(.*)' )?\S+ beeyard\.queen\.v1\.LeaseService/(\w+)$",
    TEXT,
    re.MULTILINE,
)


@pytest.fixture
async def yard() -> AsyncIterator[RunningQueen]:
    async with running_queen() as queen:
        await report(queen)
        yield queen


def test_the_page_has_examples_of_every_kind() -> None:
    assert (len(PROGRAMS), len(COMMANDS), len(CALLS)) == (2, 4, 3)


async def test_the_commands_run(yard: RunningQueen) -> None:
    for command in COMMANDS:
        ended = await beeyard(*shlex.split(command)[1:], queen=yard.queen.server.address)
        assert ended.code == 0, (command, ended)
        if "echo" in command:
            assert ended.stdout == "the backup runs\n"


async def test_the_programs_run(yard: RunningQueen) -> None:
    async def run(program: str) -> str:
        code = program.replace("BeeyardClient()", f"BeeyardClient({yard.queen.server.address!r})")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            # Its own `asyncio.run` needs a thread of its own.
            await asyncio.to_thread(exec, compile(code, str(PAGE), "exec"), {"__name__": "shown"})
        return printed.getvalue()

    assert await run(PROGRAMS[0]) == ""
    assert await run(PROGRAMS[1]) == "reindexing /data\nno work of these kinds waits\n"
    states = [work.state.value for work in yard.queen.loop.state.work.works.values()]
    assert states == ["completed", "completed"]


async def test_the_calls_are_answered(yard: RunningQueen) -> None:
    service = pb.DESCRIPTOR.services_by_name["LeaseService"]
    for body, method in CALLS:
        request = getattr(pb, service.methods_by_name[method].input_type.name)()
        json_format.ParseDict(json.loads(body or "{}"), request)
        answer = await getattr(yard.leases, method)(request)
        assert answer.ByteSize() > 0
        if isinstance(answer, pb.RequestLeaseResponse):
            assert dict(answer.granted.work.payload) == {"folder": "/data"}
