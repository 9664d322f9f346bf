"""The Go client against a live queen: its own tests, none of them skipped, and its list of reasons."""

import asyncio
import os
import re

import pytest
from beeyard_core.refusal import Refusal

from tests.support import go_tools
from tests.support.stack import Stack

# The first run on a machine compiles gRPC for Go.
pytestmark = pytest.mark.timeout(600)
# Words of the client itself, which no queen sends.
OWN_REASONS = {"QUEEN_UNREACHABLE", "CANCELLED"}
# It needs a queen of its own, which is restarted while it reads.
RESTART = "TestRestartOfTheQueenIsNotSeenInAStream"
# It needs a queen that wants certificates; tests/e2e/test_secure_links.py runs it.
SECURE = "TestSecureQueenLetsInWhoShowsACertificate"
# It needs a server behind the worker that answers as told; tests/e2e/test_canary.py runs it.
CANARY = "TestCanaryTellsEverythingButTextOfJobs"
RESULT = re.compile(r"^--- (PASS|FAIL|SKIP): (Test\w+)", re.MULTILINE)


async def start(*arguments: str, tool: str = "go", **env: str) -> asyncio.subprocess.Process:
    go_tools.go()
    return await asyncio.create_subprocess_exec(
        tool,
        *arguments,
        cwd=go_tools.CLIENT,
        env={**os.environ, **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def go(*arguments: str, tool: str = "go", **env: str) -> tuple[int | None, str]:
    process = await start(*arguments, tool=tool, **env)
    out, _ = await process.communicate()
    return process.returncode, out.decode()


@pytest.mark.asyncio(loop_scope="session")
async def test_the_go_client_passes_its_tests_against_a_live_queen(stack: Stack) -> None:
    code, printed = await go(
        *("test", "-v", "-count=1", "-timeout=5m", "./..."),
        BEEYARD_QUEEN=stack.queen_address,
        BEEYARD_MODEL="tiny",
    )
    assert code == 0, printed
    results = {name: result for result, name in RESULT.findall(printed)}
    live = {name for name in results if name.startswith("TestLive")}
    assert live, printed
    assert {name for name, result in results.items() if result != "PASS"} == {
        RESTART,
        SECURE,
        CANARY,
    }, printed


async def test_a_stream_of_the_go_client_survives_a_restart_of_the_queen() -> None:
    async with Stack(models={"tiny": "synthetic:200"}) as stack:
        process = await start(
            *("test", "-v", "-count=1", "-run", RESTART, "./beeyard"),
            BEEYARD_QUEEN=stack.queen_address,
            BEEYARD_MODEL="tiny",
            BEEYARD_RESTART="yes",
        )
        assert process.stdout is not None
        try:
            lines = []
            async for line in process.stdout:
                lines.append(line.decode())
                if "RESTART THE QUEEN NOW" in lines[-1]:
                    await stack.restart("queen")
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
    printed = "".join(lines)
    assert code == 0, printed
    assert dict(RESULT.findall(printed)) == {"PASS": RESTART}, printed


async def test_the_go_client_says_so_when_its_live_tests_do_not_run() -> None:
    code, printed = await go("test", "-v", "-run", "TestLive", "./beeyard", BEEYARD_QUEEN="")
    assert code == 0, printed
    assert "NOT RUN: set BEEYARD_QUEEN" in printed
    assert {result for result, _ in RESULT.findall(printed)} == {"SKIP"}


async def test_the_go_client_is_vetted_and_formatted() -> None:
    code, printed = await go("vet", "./...")
    assert code == 0, printed
    code, printed = await go("-l", ".", tool="gofmt")
    assert (code, printed) == (0, ""), f"gofmt would change: {printed}"


def test_the_go_client_knows_every_reason() -> None:
    source = (go_tools.CLIENT / "beeyard" / "reason.go").read_text(encoding="utf-8")
    reasons = set(re.findall(r'Reason = "([A-Z_]+)"', source))
    assert reasons == {reason.value for reason in Refusal} | OWN_REASONS
