"""Processes come up where our services start them: on uvloop, beside the threads of gRPC."""

import asyncio
import sys

import pytest


@pytest.mark.parametrize("kind", ["child", "zygote"])
async def test_every_process_comes_up_in_a_process_with_grpc(kind: str) -> None:
    # Every tenth crashed between fork and exec: so many miss that with a chance of one in sixty.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.children_beside_grpc", kind, "40",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, fault = await process.communicate()
    assert process.returncode == 0, fault.decode()
    assert out.decode().splitlines()[-1] == "40 of 40"
