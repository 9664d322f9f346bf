"""The command that asks a service whether it takes calls, as whoever watches services runs it."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from beeyard_runtime.rpc_server import RpcServer
from beeyard_runtime.security.protection import Protection, unprotected
from beeyard_runtime.security.tls import NO_TLS, Tls
from beeyard_runtime.telemetry import Telemetry

from tests.support.lab import Lab


@asynccontextmanager
async def serving(tls: Tls = NO_TLS) -> AsyncIterator[RpcServer]:
    guard = unprotected().guard
    server = RpcServer(
        "test", listen="127.0.0.1:0", telemetry=Telemetry(), protection=Protection(guard, tls)
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


async def ask(*words: str | Path) -> tuple[int, str]:
    """Run the command as a process of its own; return its exit code and what it said."""
    asked = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "beeyard_runtime.health_check", "--timeout-ms", "10000", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await asked.communicate()
    assert asked.returncode is not None
    return asked.returncode, out.decode().strip()


async def test_a_service_that_takes_calls_is_well() -> None:
    async with serving() as server:
        assert await ask(server.address) == (0, "SERVING")


async def test_a_service_that_drains_is_not() -> None:
    async with serving() as server:
        await server.drain()
        assert await ask(server.address) == (1, "NOT_SERVING")


async def test_nobody_there_is_not_well() -> None:
    async with serving() as server:
        address = server.address
    assert await ask(address) == (1, "UNAVAILABLE")


async def test_it_speaks_tls_and_shows_a_certificate_where_one_is_required(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    shown = lab.certificate("queen", hosts=["queen.lab"])
    own = ("--tls-cert", shown.cert, "--tls-key", shown.key)
    async with serving(lab.tls(shown, needs_client_cert=True)) as server:
        named = ("--tls-ca", lab.ca, "--server-name", "queen.lab")
        assert await ask(server.address, *named, *own) == (0, "SERVING")
        assert await ask(server.address, *named) == (1, "UNAVAILABLE")
        assert await ask(server.address) == (1, "UNAVAILABLE")


async def test_a_file_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    code, told = await ask("127.0.0.1:1", "--tls-ca", tmp_path / "ca.pem")
    assert code == 1
    assert "No such file" in told
    assert len(told.splitlines()) == 1
