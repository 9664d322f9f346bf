"""Further doors for what must not be told: the command line, the Go client, heavy work, the live view."""

import asyncio
import dataclasses
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import pytest
from beeyard_client import BeeyardClient, BeeyardError
from websockets.exceptions import ConnectionClosed

from tests.support import go_tools
from tests.support.canary import ANSWERED, ASKED, MODEL, PROMPT, SAID, Run
from tests.support.command import Ended, beeyard
from tests.support.live import Addressed, watching

KIND = "canary"
#: A payload may have 256 KiB.
TOO_LARGE = ASKED * 20_000
GO_TEST = "TestCanaryTellsEverythingButTextOfJobs"


async def over_the_command_line(run: Run, queen: str, environment: Mapping[str, str]) -> None:
    """Ask by `beeyard`, with everything that it and gRPC can be made to say; prompts come on stdin."""
    names = {**environment, "GRPC_VERBOSITY": "debug"}

    async def command(*arguments: str, stdin: str = "") -> Ended:
        return await beeyard(*arguments, queen=queen, stdin=stdin.encode(), environment=names)

    infer = ("infer", "-", "--model", MODEL["model"], "--max-tokens", "8")
    run.answers_well()
    as_json, as_text = await asyncio.gather(
        command(*infer, "--json", stdin=PROMPT), command(*infer, stdin=PROMPT)
    )
    assert as_json.code == 0, as_json
    told = as_json.json()
    assert ANSWERED in str(told.pop("text"))
    assert ANSWERED in as_text.stdout
    run.ended("cli: ok", told, as_json.stderr, as_text.stderr)
    job_id = str(told["job_id"])
    looks = [
        ("jobs", "explain", job_id),
        ("trace", job_id),
    ]
    for ended in await asyncio.gather(*(command(*look, "--json") for look in looks)):
        run.told += [ended.stdout, ended.stderr]
    run.quotes()
    wrong = [
        command(*infer, "--json", stdin=PROMPT),
        command(*infer, stdin=PROMPT),
        command("infer", "-", "--model", "nobody-has-it", "--json", stdin=PROMPT),
        command("lease", "submit", KIND, "--payload", f'{{"text": {PROMPT}'),
    ]
    for ended in await asyncio.gather(*wrong):
        assert ended.code, ended
        run.ended(f"cli: {ended.code}", ended.stdout, ended.stderr)


async def over_go(run: Run, queen: str) -> None:
    """Ask by the Go client of a server that refuses and quotes what it was asked."""
    run.quotes()
    process = await asyncio.create_subprocess_exec(
        *(go_tools.go(), "test", "-v", "-count=1", "-run", GO_TEST, "./beeyard"),
        cwd=go_tools.CLIENT,
        env={
            **os.environ,
            "BEEYARD_QUEEN": queen,
            "BEEYARD_MODEL": MODEL["model"],
            "BEEYARD_CANARY": PROMPT,
            "GRPC_GO_LOG_SEVERITY_LEVEL": "info",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed = (await process.communicate())[0].decode()
    assert f"--- PASS: {GO_TEST}" in printed, printed
    assert printed.count("told ") > 12, printed
    run.ended("go: told", printed)


async def over_heavy_work(run: Run, client: BeeyardClient) -> None:
    """Queue work whose payload is a prompt and whose result an answer; fail some, cancel some, and send nonsense."""
    payload = {"text": PROMPT}
    await client.submit_work(KIND, payload=payload)
    async with client.next_lease([KIND]) as held:
        assert held.work.payload == payload
        run.told += [str(one) async for one in client.list_work()]
        await held.report(0.5, SAID)
        held.result = {"text": ANSWERED}
        lease = dataclasses.replace(held.lease, epoch=held.lease.epoch + 7)
    work = await client.get_work(lease.work_id)
    assert work.result == {"text": ANSWERED}
    run.ended("work: completed", work.payload)
    await client.submit_work(KIND, payload=payload)
    with suppress(LookupError):
        async with client.next_lease([KIND]) as held:
            raise LookupError(SAID)
    assert SAID in (await client.get_work(held.lease.work_id)).failure
    run.ended("work: failed")
    waiting = await client.submit_work(KIND, payload=payload)
    await client.cancel_work(waiting.work_id, SAID)
    run.ended("work: cancelled")
    wrong = (
        client.submit_work(KIND, payload={"text": TOO_LARGE}),
        client.submit_work(KIND, capacity_units=1_000, payload=payload),
        client.complete_work(lease, {"text": ANSWERED}),
        client.report_progress(lease, 0.5, SAID),
        client.fail_work(lease, SAID),
    )
    for call in wrong:
        with pytest.raises(BeeyardError) as refused:
            await call
        error = refused.value
        run.ended(f"work: {error.reason}", error, error.message, error.metadata)


@asynccontextmanager
async def live_view(run: Run, gateway: Addressed) -> AsyncIterator[None]:
    """Watch the live view while a block runs, and note all that it shows."""
    shown: list[str] = []

    async def read() -> None:
        async with watching(gateway) as socket:
            with suppress(ConnectionClosed):
                while True:
                    shown.append(str(await socket.recv()))

    reader = asyncio.create_task(read())
    try:
        yield
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
    assert {"fleet", "queue", "decision"} <= {json.loads(one)["type"] for one in shown}
    run.told += shown
