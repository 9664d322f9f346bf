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
RESULT = re.compile(r"^--- (PASS|FAIL|SKIP): (Test\w+)", re.MULTILINE)


async def go(*arguments: str, tool: str = "go", **env: str) -> tuple[int | None, str]:
    go_tools.go()
    process = await asyncio.create_subprocess_exec(
        tool,
        *arguments,
        cwd=go_tools.CLIENT,
        env={**os.environ, **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
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
    assert {name for name, result in results.items() if result != "PASS"} == set(), printed


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
