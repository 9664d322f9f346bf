"""LiteLLM and LangChain as judges of the gateway: clients that others wrote, in an environment of their own.

They are too large for everybody's environment, so `make judges` installs them beside it and runs this.
"""

import asyncio
import os
import re
from pathlib import Path

import pytest

from tests.style.repository import ROOT
from tests.support.gateway_process import gateway_process
from tests.support.stack import Stack
from tests.support.tiny_gguf import tiny_gguf

pytestmark = pytest.mark.slow

JUDGES_ENV = "BEEYARD_JUDGES"
CASES = ROOT / "tests" / "judges"
_PATIENCE_S = 240


@pytest.mark.parametrize("judge", ["litellm", "langchain"])
async def test_a_judge_finds_nothing_wrong(judge: str) -> None:
    """`babble` is a real GGUF file on llama.cpp, with random weights; `slow` makes up tokens, to hang up on."""
    python = _python()
    models = {"babble": str(tiny_gguf()), "slow": "synthetic:20"}
    flags = ["--slots", "1", "--threads", "1"]
    async with (
        Stack(models=models, pool_manager_flags=flags) as stack,
        gateway_process(stack) as gateway,
    ):
        told = await asyncio.create_subprocess_exec(
            *(python, "-m", "pytest", "-c", CASES / "pytest.ini", CASES / f"test_{judge}.py"),
            cwd=CASES,
            # Nothing of this project, of a proxy or of an account of the user's reaches the judge.
            env={"PATH": os.environ["PATH"], "BEEYARD_JUDGED_URL": f"http://{gateway.address}"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(_PATIENCE_S):
            out, _ = await told.communicate()
    text = out.decode(errors="replace")
    assert told.returncode == 0, text[-6_000:]
    passed = re.search(r"(\d+) passed", text)
    assert passed is not None, text[-2_000:]
    assert int(passed[1]) >= 16
    assert "skipped" not in text.splitlines()[-1], text[-2_000:]


def _python() -> Path:
    found = os.environ.get(JUDGES_ENV)
    if not found:
        pytest.skip("the judges have an environment of their own: run `make judges`")
    return Path(found)
