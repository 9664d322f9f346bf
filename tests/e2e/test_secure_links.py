"""Every link of a stack over TLS with certificates at both ends: queen, pool manager, worker, gateway, clients."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import httpx
import pytest
import pytest_asyncio
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard.worker.v1 import engine_service_pb2_grpc as engine_rpc
from beeyard_client import Access, BeeyardClient, BeeyardError
from beeyard_runtime.rpc_channel import open_channel
from beeyard_runtime.security.certificates import PeerName
from beeyard_runtime.security.dialing import Dialing
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from tests.support import go_tools
from tests.support.command import beeyard
from tests.support.gateway_process import gateway_process
from tests.support.lab import Lab, Shown
from tests.support.stack import POOL_ID, Stack

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]


@dataclass(frozen=True)
class Secured:
    """A stack over TLS, and what a client needs to reach it."""

    stack: Stack
    gateway: str
    lab: Lab
    client: Shown

    @property
    def access(self) -> Access:
        return Access(ca=self.lab.ca, cert=self.client.cert, key=self.client.key)

    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.lab.ca)
        context.load_cert_chain(self.client.cert, self.client.key)
        return context


def _variables(role: str, lab: Lab, shown: Shown) -> dict[str, str]:
    prefix = f"BEEYARD_{role.upper()}_TLS_"
    return {
        prefix + "CERT": str(shown.cert),
        prefix + "KEY": str(shown.key),
        prefix + "CA": str(lab.ca),
        prefix + "CLIENT_CERTS": "required",
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    client = lab.certificate("client")
    env: dict[str, str] = {}
    for role in ("queen", "pool_manager", "gateway"):
        peer = PeerName(POOL_ID) if role == "pool_manager" else None
        shown = lab.certificate(role, hosts=[f"{role.replace('_', '-')}.lab"], peer=peer)
        env |= _variables(role, lab, shown)
    models, dialing = {"tiny": "synthetic:200"}, Dialing(lab.tls(client))
    async with (
        Stack(models=models, env=env, dialing=dialing) as stack,
        gateway_process(stack) as gateway,
    ):
        yield Secured(stack, gateway.address, lab, client)


async def test_a_job_goes_from_client_to_token(secured: Secured) -> None:
    async with (
        BeeyardClient(secured.stack.queen_address, access=secured.access) as client,
        client.infer("bee", model="tiny", max_tokens=8, seed=1) as stream,
    ):
        kinds = [type(event).__name__ async for event in stream]
    assert kinds[-1] == "Finished"


async def test_the_command_line_is_let_in_by_its_certificate(secured: Secured) -> None:
    flags = ["--ca", str(secured.lab.ca)]
    shown = ["--cert", str(secured.client.cert), "--key", str(secured.client.key)]
    queen = secured.stack.queen_address
    let_in = await beeyard(
        *flags, *shown, "infer", "bee", "--max-tokens", "4", "--json", queen=queen
    )
    assert let_in.code == 0, let_in.stderr
    kept_out = await beeyard(*flags, "models", queen=queen)
    assert kept_out.code == 1
    assert "Traceback" not in kept_out.stderr


async def test_the_openai_client_speaks_https(secured: Secured) -> None:
    url = f"https://{secured.gateway}/v1"
    async with (
        DefaultAsyncHttpxClient(verify=secured.tls(), trust_env=False) as http,
        AsyncOpenAI(base_url=url, api_key="none", max_retries=0, http_client=http) as client,
    ):
        answer = await client.completions.create(model="tiny", prompt="bee", max_tokens=5)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 5
        stream = await client.completions.create(
            model="tiny", prompt="bee", max_tokens=5, stream=True
        )
        assert "".join([chunk.choices[0].text async for chunk in stream])


async def test_whoever_speaks_in_the_clear_is_not_heard(secured: Secured) -> None:
    async with BeeyardClient(secured.stack.queen_address, connect_patience_ms=0) as client:
        with pytest.raises(BeeyardError) as refused:
            await client.models()
    assert refused.value.reason == "QUEEN_UNREACHABLE"
    async with httpx.AsyncClient(trust_env=False) as http:
        with pytest.raises(httpx.HTTPError):
            await http.get(f"http://{secured.gateway}/healthz")


async def test_without_a_certificate_nobody_reaches_the_gateway(secured: Secured) -> None:
    context = ssl.create_default_context(cafile=secured.lab.ca)
    async with httpx.AsyncClient(verify=context, trust_env=False) as http:
        with pytest.raises(httpx.HTTPError):
            await http.get(f"https://{secured.gateway}/healthz")


async def test_a_worker_shows_and_wants_the_certificate_of_its_pool(secured: Secured) -> None:
    address = secured.stack.worker_address
    request = engine_pb.GetStatusRequest()
    own = Dialing(secured.lab.tls(secured.client))
    async with open_channel(address, dialing=own) as channel:
        status = await engine_rpc.EngineServiceStub(channel).GetStatus(request, timeout=10)
    assert status.worker_id == secured.stack.worker_id
    async with open_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await engine_rpc.EngineServiceStub(channel).GetStatus(request, timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_pool_manager_adopts_its_workers_over_tls(secured: Secured) -> None:
    before = secured.stack.worker_id
    await secured.stack.restart("pool_manager")
    assert secured.stack.worker_id == before


# The first run on a machine compiles gRPC for Go.
@pytest.mark.timeout(600)
async def test_the_go_client_is_let_in_by_its_certificate(secured: Secured) -> None:
    process = await asyncio.create_subprocess_exec(
        go_tools.go(),
        *("test", "-count=1", "-v", "-run", "TestSecureQueen", "./beeyard"),
        cwd=go_tools.CLIENT,
        env={
            **os.environ,
            "BEEYARD_SECURE_QUEEN": secured.stack.queen_address,
            "BEEYARD_CA": str(secured.lab.ca),
            "BEEYARD_CERT": str(secured.client.cert),
            "BEEYARD_KEY": str(secured.client.key),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert "--- PASS: TestSecureQueen" in out.decode(), out.decode()
