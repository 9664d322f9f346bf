"""The command `beeyard` as a real process, run from a test's event loop."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> dict[str, object]:
        told = json.loads(self.stdout)
        assert isinstance(told, dict)
        return told


async def start(
    *arguments: str | bytes, queen: str = "", environment: Mapping[str, str] | None = None
) -> asyncio.subprocess.Process:
    """Start the command with all three streams piped; the caller waits for its end."""
    names = {**os.environ, "BEEYARD_QUEEN": queen} if queen else dict(os.environ)
    names.pop("BEEYARD_OTLP_ENDPOINT", None)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "beeyard_client.cli",
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**names, **(environment or {})},
    )


async def beeyard(
    *arguments: str | bytes,
    queen: str = "",
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run the command to its end."""
    process = await start(*arguments, queen=queen, environment=environment)
    stdout, stderr = await process.communicate(stdin)
    assert process.returncode is not None
    return Ended(process.returncode, stdout.decode(), stderr.decode())
