"""A service process begins with one line on stdout and ends with the exit code its parent can act on."""

import asyncio
import gc
import json
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from beeyard_runtime.lifecycle import Stop, announce, uncollected
from beeyard_runtime.rpc_channel import open_channel, stream
from beeyard_runtime.testing import serving
from grpc_health.v1 import health_pb2, health_pb2_grpc

_PREAMBLE = """
import asyncio, sys
from beeyard_runtime.lifecycle import (
    ConfigInvalid, ListenFailed, StartFailed, Stop, announce, run_service,
)
"""
_WAITS = """
async def main(stop):
    announce("queen", "127.0.0.1:7700", admin_address=None, pid=1)
    await stop.wait()
    announce("drained", "")
sys.exit(run_service(main, "queen"))
"""
_DEAF = """
async def main(stop):
    announce("queen", "127.0.0.1:7700")
    await stop.wait()
    announce("stopping", "")
    await asyncio.Event().wait()
sys.exit(run_service(main, "queen"))
"""


@asynccontextmanager
async def _python(source: str, *args: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(_PREAMBLE) + textwrap.dedent(source),
        *args,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _ready(process: asyncio.subprocess.Process) -> dict[str, object]:
    assert process.stdout
    line: dict[str, object] = json.loads(await process.stdout.readline())
    return line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_drains(number: signal.Signals) -> None:
    async with _python(_WAITS) as process:
        assert await _ready(process) == {"ready": "queen", "address": "127.0.0.1:7700", "pid": 1}
        process.send_signal(number)
        out, err = await process.communicate()
        assert json.loads(out)["ready"] == "drained"
        assert err == b""
        assert process.returncode == 0


async def test_the_second_signal_ends_it_at_once() -> None:
    async with _python(_DEAF) as process:
        await _ready(process)
        process.send_signal(signal.SIGTERM)
        assert (await _ready(process))["ready"] == "stopping"
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 130


@pytest.mark.parametrize(
    ("fault", "code"), [("ListenFailed", 1), ("StartFailed", 1), ("ConfigInvalid", 2)]
)
async def test_an_expected_fault_is_one_line(fault: str, code: int) -> None:
    source = f"""
    async def main(stop):
        raise {fault}("the port is\\nin use")
    sys.exit(run_service(main, "queen"))
    """
    async with _python(source) as process:
        out, err = await process.communicate()
        assert process.returncode == code
        assert (out, err) == (b"", b"beeyard queen: the port is in use\n")


async def test_a_bug_shows_its_traceback() -> None:
    source = """
    async def main(stop):
        raise ZeroDivisionError("a bug")
    sys.exit(run_service(main, "queen"))
    """
    async with _python(source) as process:
        out, err = await process.communicate()
        assert process.returncode == 1
        assert out == b""
        assert b"service_crashed" in err
        assert b"Traceback" in err


async def test_a_service_may_end_by_itself_and_runs_on_uvloop() -> None:
    source = """
    async def main(stop):
        announce(type(asyncio.get_running_loop()).__module__, "")
    sys.exit(run_service(main, "queen"))
    """
    async with _python(source) as process:
        assert (await _ready(process))["ready"] == "uvloop"
        assert await process.wait() == 0


async def test_stop_is_a_wish_that_stays() -> None:
    stop = Stop()
    waiting = asyncio.create_task(stop.wait())
    assert not stop.is_set
    stop.set()
    stop.set()
    await waiting
    await stop.wait()
    assert stop.is_set


def test_announce_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    announce("worker", "127.0.0.1:1", admin_address="127.0.0.1:2", instance=None)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {
        "ready": "worker",
        "address": "127.0.0.1:1",
        "admin_address": "127.0.0.1:2",
    }


_SERVES = """
from beeyard_runtime.rpc_server import RpcServer
from beeyard_runtime.telemetry import setup_telemetry
async def main(stop):
    telemetry = setup_telemetry("queen")
    server = RpcServer("queen", listen=sys.argv[1], admin_listen="127.0.0.1:0", telemetry=telemetry)
    await server.start()
    announce("queen", server.address, admin_address=server.admin_address)
    await stop.wait()
    await server.drain()
    await server.stop(1_000)
    telemetry.shutdown()
sys.exit(run_service(main, "queen"))
"""


async def _next_state(
    watch: "grpc.aio.UnaryStreamCall[Any, Any]",
) -> object:
    """Return the next state, or the code of the end: grpc.aio forgets a message that is read after the end came."""
    try:
        answer = await watch.read()
    except grpc.aio.AioRpcError as ended:
        return ended.code()
    assert isinstance(answer, health_pb2.HealthCheckResponse)
    return answer.status


async def test_a_served_process_starts_answers_and_drains_in_silence() -> None:
    async with _python(_SERVES, "127.0.0.1:0") as process:
        address = str((await _ready(process))["address"])
        async with open_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            async with stream(health.Watch(health_pb2.HealthCheckRequest())) as watch:
                assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
                process.send_signal(signal.SIGTERM)
                assert await _next_state(watch) in (
                    health_pb2.HealthCheckResponse.NOT_SERVING,
                    grpc.StatusCode.UNAVAILABLE,
                )
                assert await process.communicate() == (b"", b"")
        assert process.returncode == 0


async def test_a_port_in_use_ends_the_process_with_one_line() -> None:
    async with serving() as served, _python(_SERVES, served.address) as process:
        out, err = await process.communicate()
        assert process.returncode == 1
        assert out == b""
        assert err.decode().startswith(f"beeyard queen: cannot listen on {served.address}: ")
        assert err.count(b"\n") == 1


def test_a_block_without_collection_leaves_a_process_that_collects_nothing_as_it_was() -> None:
    was_collecting, before = gc.isenabled(), gc.get_freeze_count()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
        assert gc.get_freeze_count() == before
    finally:
        if was_collecting:
            gc.enable()
