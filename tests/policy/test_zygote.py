"""The zygote comes up where the queen lives: on uvloop, beside the threads of gRPC."""

import asyncio
import sys


async def test_every_zygote_comes_up_in_a_process_with_grpc() -> None:
    # Started by uvloop itself, every tenth crashed: this many miss that with a chance of one in twenty.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.zygotes_beside_grpc", "30",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, fault = await process.communicate()
    assert process.returncode == 0, fault.decode()
    assert out.decode().splitlines()[-1] == "started 30"
