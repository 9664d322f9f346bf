"""A stack whose every link has TLS with certificates at both ends, and whose callers show tokens.

The pool manager and its workers are known by their certificate alone, everybody else by a token besides.
"""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio
from beeyard.queen.v1 import fleet_service_pb2 as fleet_pb
from beeyard.queen.v1 import fleet_service_pb2_grpc as fleet_rpc
from beeyard.worker.v1 import engine_service_pb2 as engine_pb
from beeyard.worker.v1 import engine_service_pb2_grpc as engine_rpc
from beeyard_client import Access, BeeyardClient, BeeyardError
from beeyard_runtime.rpc_channel import open_channel
from beeyard_runtime.security.callers import Role
from beeyard_runtime.security.certificates import PeerName
from beeyard_runtime.security.dialing import Dialing
from beeyard_runtime.security.private_file import write_new
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from tests.support import go_tools
from tests.support.command import beeyard
from tests.support.gateway_process import gateway_process
from tests.support.lab import Lab, Shown
from tests.support.stack import POOL_ID, Stack
from tests.support.tokens import Tokens

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.slow]
TENANT = "team-a"


@dataclass(frozen=True)
class Secured:
    """A stack over TLS, and what a client needs to reach it."""

    stack: Stack
    gateway: str
    lab: Lab
    client: Shown
    pool: Shown
    token: str
    other: str
    operator: str

    def access(self, token: str) -> Access:
        return Access(token, self.lab.ca, self.client.cert, self.client.key)

    def tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.lab.ca)
        context.load_cert_chain(self.client.cert, self.client.key)
        return context


def _tls_of(role: str, lab: Lab, shown: Shown) -> Iterator[tuple[str, str]]:
    prefix = f"BEEYARD_{role.upper()}_TLS_"
    yield prefix + "CERT", str(shown.cert)
    yield prefix + "KEY", str(shown.key)
    yield prefix + "CA", str(lab.ca)
    yield prefix + "CLIENT_CERTS", "required"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    folder = tmp_path_factory.mktemp("lab")
    lab, file = Lab(folder), Tokens(folder / "tokens.json")
    token = file.add("alice", Role.CLIENT, tenant_id=TENANT)
    other = file.add("bob", Role.CLIENT, tenant_id="team-b")
    operator = file.add("olga", Role.OPERATOR)
    shown = {
        "queen": lab.certificate("queen", hosts=["queen.lab"]),
        "pool_manager": lab.certificate("pool", hosts=["pool.lab"], peer=PeerName(POOL_ID)),
        "gateway": lab.certificate("gateway", hosts=["gateway.lab"]),
    }
    client = lab.certificate("client")
    env = {key: value for role in shown for key, value in _tls_of(role, lab, shown[role])}
    env |= {f"BEEYARD_{role}_TOKENS": str(file.path) for role in ("QUEEN", "GATEWAY")}
    env["BEEYARD_GATEWAY_TOKEN"] = file.add("gateway", Role.OPERATOR)
    dialing = Dialing(lab.tls(client), lambda: operator)
    async with (
        Stack(models={"tiny": "synthetic:200"}, env=env, dialing=dialing) as stack,
        gateway_process(stack) as gateway,
    ):
        pool = shown["pool_manager"]
        yield Secured(stack, gateway.address, lab, client, pool, token, other, operator)


async def test_a_job_goes_from_client_to_token(secured: Secured) -> None:
    async with (
        BeeyardClient(secured.stack.queen_address, access=secured.access(secured.token)) as client,
        client.infer("bee", model="tiny", max_tokens=8, seed=1) as stream,
    ):
        kinds = [type(event).__name__ async for event in stream]
    assert kinds[-1] == "Finished"


async def test_the_command_line_shows_certificate_and_token(secured: Secured) -> None:
    flags = ["--ca", str(secured.lab.ca)]
    shown = ["--cert", str(secured.client.cert), "--key", str(secured.client.key)]
    queen, own = secured.stack.queen_address, {"BEEYARD_TOKEN": secured.token}
    ask = ["infer", "bee", "--max-tokens", "4", "--json"]
    let_in = await beeyard(*flags, *shown, *ask, queen=queen, environment=own)
    assert let_in.code == 0, let_in.stderr
    without_token = await beeyard(*flags, *shown, "models", queen=queen)
    assert without_token.code == 1
    assert "BEEYARD_TOKEN" in without_token.stderr
    denied = await beeyard(*flags, *shown, "fleet", "--json", queen=queen, environment=own)
    assert denied.code == 1
    assert denied.json()["error"]["reason"] == "PERMISSION_DENIED"  # type: ignore[index]
    without_certificate = await beeyard(*flags, "models", queen=queen, environment=own)
    assert without_certificate.code == 1
    for ended in (let_in, without_token, denied, without_certificate):
        assert "Traceback" not in ended.stderr
        assert secured.token not in ended.stdout + ended.stderr


async def test_a_job_is_its_tenants_over_every_door(secured: Secured) -> None:
    queen = secured.stack.queen_address
    async with BeeyardClient(queen, access=secured.access(secured.token)) as client:
        job = await client.submit("bee", model="tiny", max_tokens=4)
        assert job.tenant_id == TENANT
    async with BeeyardClient(queen, access=secured.access(secured.other)) as client:
        with pytest.raises(BeeyardError) as refused:
            await client.get(job.job_id)
        assert refused.value.reason == "JOB_NOT_FOUND"
    async with httpx.AsyncClient(verify=secured.tls(), trust_env=False) as http:
        headers = {"authorization": f"Bearer {secured.token}"}
        listed = await http.get(f"https://{secured.gateway}/v2/jobs", headers=headers)
        assert job.job_id in {one["job_id"] for one in listed.json()["jobs"]}
        refused_admin = await http.get(
            f"https://{secured.gateway}/v2/admin/scheduler/versions", headers=headers
        )
        assert refused_admin.status_code == httpx.codes.FORBIDDEN


async def test_the_openai_client_speaks_https(secured: Secured) -> None:
    url = f"https://{secured.gateway}/v1"
    async with (
        DefaultAsyncHttpxClient(verify=secured.tls(), trust_env=False) as http,
        AsyncOpenAI(base_url=url, api_key=secured.token, max_retries=0, http_client=http) as client,
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


async def test_a_worker_takes_calls_of_its_pool_only(secured: Secured) -> None:
    address = secured.stack.worker_address
    request = engine_pb.GetStatusRequest()

    async def ends(dialing: Dialing) -> grpc.StatusCode:
        async with open_channel(address, dialing=dialing) as channel:
            try:
                await engine_rpc.EngineServiceStub(channel).GetStatus(request, timeout=10)
            except grpc.aio.AioRpcError as error:
                return error.code()
            return grpc.StatusCode.OK

    assert await ends(Dialing(secured.lab.tls(secured.pool))) is grpc.StatusCode.OK
    client = secured.lab.tls(secured.client)
    assert await ends(Dialing(client)) is grpc.StatusCode.UNAUTHENTICATED
    # It has no tokens file, so what the queen knows says nothing here.
    assert await ends(Dialing(client, lambda: secured.operator)) is (
        grpc.StatusCode.UNAUTHENTICATED
    )
    assert await ends(Dialing()) is grpc.StatusCode.UNAVAILABLE


async def test_a_pool_manager_adopts_its_workers_over_tls(secured: Secured) -> None:
    before = secured.stack.worker_id
    await secured.stack.restart("pool_manager")
    assert secured.stack.worker_id == before


async def test_a_renewal_disturbs_nobody_and_counts_for_newcomers(secured: Secured) -> None:
    addresses = [secured.stack.queen_address, secured.gateway, secured.stack.worker_address]

    async def serials() -> list[str]:
        return [await _serial(address, secured.tls()) for address in addresses]

    before, process = await serials(), secured.stack.worker_id
    async with (
        BeeyardClient(secured.stack.queen_address, access=secured.access(secured.token)) as client,
        client.infer("bee", model="tiny", max_tokens=600, seed=1) as stream,
    ):
        events = aiter(stream)
        await anext(events)
        for name, peer in (("queen", None), ("gateway", None), ("pool", PeerName(POOL_ID))):
            fresh = secured.lab.certificate(f"{name}-renewed", hosts=[f"{name}.lab"], peer=peer)
            fresh.key.replace(secured.lab.folder / f"{name}.key")
            fresh.cert.replace(secured.lab.folder / f"{name}.pem")
        # They look once a second, and only when somebody comes.
        while set(after := await serials()) & set(before):
            pass
        kinds = [type(event).__name__ async for event in events]
    assert kinds[-1] == "Finished"
    assert "Started" not in kinds[1:], "the job did not begin again"
    assert len(set(after)) == len(addresses)
    assert secured.stack.worker_id == process


async def _serial(address: str, tls: ssl.SSLContext) -> str:
    """Return the number of the certificate that is shown there to a newcomer."""
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=tls)
    try:
        return str(writer.get_extra_info("peercert")["serialNumber"])
    finally:
        writer.close()


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
            "BEEYARD_TOKEN": secured.token,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert "--- PASS: TestSecureQueen" in out.decode(), out.decode()


async def test_a_stack_in_the_clear_is_told_apart_by_tokens(tmp_path: Path) -> None:
    """On loopback without TLS: the pool manager shows a token, and its worker gets it from there."""
    file = Tokens(tmp_path / "tokens.json")
    operator = file.add("olga", Role.OPERATOR)
    pool = file.add("pool", Role.POOL, pool_id=POOL_ID)
    held = tmp_path / "pool.token"
    write_new(held, pool.encode())
    env = {
        "BEEYARD_QUEEN_TOKENS": str(file.path),
        "BEEYARD_POOL_MANAGER_TOKEN_FILE": str(held),
    }
    async with Stack(env=env, dialing=Dialing(token=lambda: operator)) as stack:
        async with open_channel(stack.worker_address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await (
                    engine_rpc.EngineServiceStub(channel)
                    .Generate(engine_pb.GenerateRequest(prompt="bee"))
                    .read()
                )
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        trail = stack.folder / "queen.sqlite.audit.jsonl"
        stub = fleet_rpc.FleetServiceStub(stack.channel(stack.queen_address))
        await stub.DrainWorker(fleet_pb.DrainWorkerRequest(worker_id=stack.worker_id))
        last = json.loads(trail.read_text(encoding="utf-8").splitlines()[-1])
        assert (last["who"], last["result"]) == ("olga", "OK")
        assert last["what"] == {"worker_id": stack.worker_id}
        written = "".join(log.read_text(encoding="utf-8") for log in stack.folder.rglob("*.log"))
        for token in (operator, pool):
            assert token.rpartition("_")[2] not in written
