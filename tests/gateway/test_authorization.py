"""The authorisation matrix of the gateway: every route x {no token, wrong role, other tenant, right one}."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import pytest_asyncio
from beeyard_core import limits
from beeyard_runtime.security.authorization import ROUTES, TenantRule
from beeyard_runtime.security.callers import Role
from beeyard_runtime.security.token_file import FileTokens
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.support.attached_worker import attached_worker
from tests.support.live import next_of, watching
from tests.support.running_gateway import CHAT, TEXT, RunningGateway, running_gateway
from tests.support.running_queen import RunningQueen, running_queen
from tests.support.tokens import Tokens

pytestmark = pytest.mark.asyncio(loop_scope="module")

OWN, OTHER = "tenant-a", "tenant-b"
JOB = {"model": "tiny", "prompt": "bee", "max_tokens": 4}
HTTP_ROUTES = sorted(route for route in ROUTES if route != "GET /v2/live")


@dataclass
class Secured:
    """A gateway before a queen, both with tokens, and a job of one tenant."""

    gateway: RunningGateway
    queen: RunningQueen
    file: Tokens
    tokens: dict[Role, str]
    other: str
    job_id: str = ""

    async def ask(self, route: str, token: str, **more: object) -> httpx.Response:
        """Send a request, hang up when the headers are there, and return the answer with what it says of errors."""
        method, _, path = route.partition(" ")
        path = path.replace("{job_id}", self.job_id).replace("{version}", "0")
        path = path.replace("{model:path}", "tiny")
        path += "?jobs=1" if route.startswith("GET") and path.endswith("/simulate") else ""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        body: dict[str, object] = {"json": {}} if method == "POST" else {}
        asked = {"headers": headers, **body, **more}
        async with self.gateway.client.stream(method, path, **asked) as answer:  # type: ignore[arg-type]
            if answer.status_code >= httpx.codes.BAD_REQUEST:
                await answer.aread()
            return answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def secured(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secured]:
    file = Tokens(tmp_path_factory.mktemp("tokens") / "tokens.json")
    tokens = {
        Role.CLIENT: file.add("client", Role.CLIENT, tenant_id=OWN),
        Role.OPERATOR: file.add("operator", Role.OPERATOR),
        Role.POOL: file.add("pool", Role.POOL, pool_id="none"),
        Role.WORKER: file.add("worker", Role.WORKER, pool_id="none"),
        Role.ADMIN: file.add("admin", Role.ADMIN),
        Role.MONITOR: file.add("monitor", Role.MONITOR),
    }
    other = file.add("other", Role.CLIENT, tenant_id=OTHER)
    own = file.add("gateway", Role.OPERATOR)
    async with AsyncExitStack() as stack:
        queen = await stack.enter_async_context(running_queen(tokens=file.path))
        gateway = await stack.enter_async_context(
            running_gateway(queen.queen.server.address, tokens=file.path, token=own)
        )
        made = Secured(gateway, queen, file, tokens, other)
        channel = await queen.channel_as(tokens[Role.WORKER], stack)
        await stack.enter_async_context(attached_worker(channel))
        headers = {"authorization": f"Bearer {tokens[Role.CLIENT]}"}
        answer = await gateway.client.post("/v2/jobs", json=JOB, headers=headers)
        made.job_id = answer.json()["job_id"]
        yield made


@pytest.mark.parametrize("route", HTTP_ROUTES)
async def test_a_route_is_for_its_roles_and_for_nobody_else(secured: Secured, route: str) -> None:
    row = ROUTES[route]
    if row.roles is None:
        assert (await secured.ask(route, "")).status_code == httpx.codes.OK
        return
    nobody = await secured.ask(route, "")
    if nobody.status_code != httpx.codes.TOO_MANY_REQUESTS:
        assert nobody.status_code == httpx.codes.UNAUTHORIZED
        assert nobody.headers["www-authenticate"].startswith("Bearer")
        assert nobody.headers["x-should-retry"] == "false"
    for role in Role:
        status = (await secured.ask(route, secured.tokens[role])).status_code
        if role in row.roles:
            assert status not in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN), role
        else:
            assert status == httpx.codes.FORBIDDEN, role


OWNED = [route for route in HTTP_ROUTES if "{job_id}" in route]


@pytest.mark.parametrize("route", OWNED)
async def test_a_job_of_another_tenant_is_not_there(secured: Secured, route: str) -> None:
    answer = await secured.ask(route, secured.other)
    assert answer.status_code == httpx.codes.NOT_FOUND
    assert OWN not in answer.text


#: What a request for another tenant has besides that tenant.
ASKING: dict[str, dict[str, object]] = {
    "POST /v1/chat/completions": CHAT,
    "POST /v1/completions": TEXT,
    "POST /v2/jobs": JOB,
    **{f"GET /v2/{name}": {} for name in ("jobs", "stats", "forecast")},
}


@pytest.mark.parametrize(
    "route", [route for route in HTTP_ROUTES if ROUTES[route].tenant is TenantRule.ASKED]
)
async def test_a_request_for_another_tenant_is_refused(secured: Secured, route: str) -> None:
    assert route in ASKING, f"write down how another tenant would be asked for by {route}"
    method, _, path = route.partition(" ")
    own = {"authorization": f"Bearer {secured.other}"}
    if method == "POST":
        asked: dict[str, Any] = {"headers": {**own, "x-beeyard-tenant": OWN}, "json": ASKING[route]}
    else:
        asked = {"headers": own, "params": {"tenant_id": OWN}}
        unnamed = await secured.gateway.client.request(method, path, headers=own)
        assert unnamed.status_code == httpx.codes.OK
        assert secured.job_id not in unnamed.text
    answer = await secured.gateway.client.request(method, path, **asked)
    assert answer.status_code == httpx.codes.FORBIDDEN
    assert secured.job_id not in answer.text


async def test_a_tenant_in_a_header_is_the_tokens_own_or_refused(secured: Secured) -> None:
    token = secured.tokens[Role.CLIENT]
    headers = {"authorization": f"Bearer {token}"}
    named = {**headers, "x-beeyard-tenant": OTHER}
    for path, body in (("/v2/jobs", JOB), ("/v1/completions", TEXT)):
        answer = await secured.gateway.client.post(path, json=body, headers=named)
        assert answer.status_code == httpx.codes.FORBIDDEN, path
    listed = await secured.gateway.client.get(f"/v2/jobs?tenant_id={OTHER}", headers=headers)
    assert listed.status_code == httpx.codes.FORBIDDEN
    own = await secured.gateway.client.get("/v2/jobs", headers=headers)
    assert {job["tenant_id"] for job in own.json()["jobs"]} == {OWN}
    other = await secured.gateway.client.get(
        "/v2/jobs", headers={"authorization": f"Bearer {secured.other}"}
    )
    assert other.json()["jobs"] == []


async def test_openai_clients_are_told_in_their_own_shape(secured: Secured) -> None:
    refused = await secured.gateway.client.get(
        "/v1/models", headers={"authorization": "Bearer sk-none"}
    )
    if refused.status_code == httpx.codes.UNAUTHORIZED:
        assert refused.json()["error"]["code"] == "invalid_api_key"
    denied = await secured.ask("GET /v1/models", secured.tokens[Role.POOL])
    assert denied.json()["error"]["type"] == "permission_error"


async def test_any_host_name_will_do_where_tokens_are_shown(secured: Secured) -> None:
    headers = {"host": "gateway.lab", "authorization": f"Bearer {secured.tokens[Role.CLIENT]}"}
    answer = await secured.gateway.client.get("/v1/models", headers=headers)
    assert answer.status_code == httpx.codes.OK


async def test_the_live_view_is_for_operators_and_read_with_the_gateways_token(
    secured: Secured,
) -> None:
    for token in ("", secured.tokens[Role.CLIENT]):
        headers = {"authorization": f"Bearer {token}"} if token else {}
        with pytest.raises(InvalidStatus) as refused:
            async with watching(secured.gateway, additional_headers=headers):
                pass
        assert refused.value.response.status_code == httpx.codes.FORBIDDEN
    shown = {"authorization": f"Bearer {secured.tokens[Role.OPERATOR]}"}
    async with watching(secured.gateway, additional_headers=shown) as socket:
        assert (await next_of(socket, "status"))["queen"] == "connected"


async def test_a_browser_shows_its_token_as_a_subprotocol(secured: Secured) -> None:
    offered = [Subprotocol("beeyard"), Subprotocol(f"bearer.{secured.tokens[Role.OPERATOR]}")]
    async with watching(secured.gateway, subprotocols=offered) as socket:
        assert socket.subprotocol == "beeyard"
        assert (await next_of(socket, "status"))["queen"] == "connected"


async def test_a_live_view_ends_when_its_token_is_revoked(secured: Secured) -> None:
    token = secured.file.add("leaver", Role.OPERATOR)
    verifier = secured.gateway.gateway._guard._verifier
    assert isinstance(verifier, FileTokens)
    verifier._look_at_ms = 0
    async with watching(
        secured.gateway, additional_headers={"authorization": f"Bearer {token}"}
    ) as socket:
        await next_of(socket, "status")
        secured.file.revoke("leaver")
        # What was under way may still come; then the gateway hangs up.
        with suppress(ConnectionClosed):
            async for _ in socket:
                pass
        assert socket.close_code is not None


async def test_a_gateway_without_a_file_passes_tokens_on_and_lends_nobody_its_own(
    secured: Secured,
) -> None:
    """The queen decides alone then; whoever shows nothing is nobody, though the gateway has a token."""
    own = secured.file.add("second-gateway", Role.ADMIN)
    queen = secured.queen.queen.server.address
    await secured.queen.tick(limits.TOKENS_LOOK_MS)
    async with running_gateway(queen, token=own) as gateway:
        nobody = await gateway.client.get("/v2/jobs")
        assert nobody.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.TOO_MANY_REQUESTS)
        headers = {"authorization": f"Bearer {secured.tokens[Role.CLIENT]}"}
        known = await gateway.client.get("/v2/jobs", headers=headers)
        assert {job["tenant_id"] for job in known.json()["jobs"]} == {OWN}
        refused = await gateway.client.get("/v2/admin/scheduler/versions", headers=headers)
        assert refused.status_code == httpx.codes.FORBIDDEN
