"""What every request meets before its route: sizes, types, hosts, names, and errors in the right shape."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest
import pytest_asyncio
from beeyard_core import limits

from tests.support.eventually import eventually
from tests.support.running_gateway import TEXT, RunningGateway, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway() -> AsyncIterator[RunningGateway]:
    """A gateway without a queen: what is tested here never gets to one."""
    async with running_gateway("127.0.0.1:1") as running:
        yield running


async def raw(gateway: RunningGateway, sent: bytes, *, most: int = 65_536) -> bytes:
    """Send bytes and return what comes until the server closes."""
    host, port = gateway.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(sent)
        async with asyncio.timeout(10):
            return await reader.read(most)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize(
    ("path", "shape"), [("/v1/nothing", "openai"), ("/v2/nothing", "problem"), ("/", "problem")]
)
async def test_a_route_that_is_not_there_is_said_in_the_shape_of_its_api(
    gateway: RunningGateway, path: str, shape: str
) -> None:
    answer = await gateway.client.get(path)
    assert answer.status_code == 404
    if shape == "openai":
        assert answer.json()["error"]["code"] == "route_not_found"
    else:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["type"] == "urn:beeyard:problem:route-not-found"
        assert answer.json()["status"] == 404


async def test_a_wrong_method_is_told_the_right_ones(gateway: RunningGateway) -> None:
    answer = await gateway.client.delete("/v2/jobs")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")


async def test_the_clients_name_for_a_request_comes_back_and_others_are_made(
    gateway: RunningGateway,
) -> None:
    named = await gateway.client.get("/healthz", headers={"X-Correlation-Id": "walk-7"})
    assert named.headers["x-correlation-id"] == "walk-7"
    made = {(await gateway.client.get("/healthz")).headers["x-correlation-id"] for _ in range(2)}
    assert len(made) == 2
    for strange in ("x" * 129, "a b", "<script>"):
        answer = await gateway.client.get("/healthz", headers={"X-Correlation-Id": strange})
        assert answer.headers["x-correlation-id"] != strange


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"bee"',
        b"\xff",
        b'{"prompt": NaN}',
        b"[" * 10_000,
        b'{"a":"\\ud800"}',
    ],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v2/jobs"])
async def test_what_is_no_request_is_refused(
    gateway: RunningGateway, path: str, body: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await gateway.client.post(path, content=body, headers=headers)
    assert answer.status_code == 400
    told = answer.json().get("error", answer.json())
    assert told["reason"] == "INVALID_REQUEST"


async def test_a_form_is_not_taken(gateway: RunningGateway) -> None:
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=b",
    ):
        headers = {"Content-Type": kind}
        answer = await gateway.client.post("/v2/jobs", content=b"{}", headers=headers)
        assert answer.status_code == 415


async def test_a_body_that_is_too_large_is_refused_declared_or_not(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HTTP_BODY_BYTES_MAX", 100_000)

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 10_000

    headers = {"Content-Type": "application/json"}
    for content in (b" " * 200_000, parts()):
        answer = await gateway.client.post("/v1/completions", content=content, headers=headers)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"


async def test_a_body_that_does_not_come_is_not_waited_for(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HTTP_BODY_TIMEOUT_MS", 50)
    head = b"POST /v2/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"
    for begun in (b"", b"{"):
        assert (await raw(gateway, head + begun)).startswith(b"HTTP/1.1 408")


async def test_headers_that_are_too_large_or_do_not_come_end_the_connection(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    many = b"".join(b"x-%d: y\r\n" % n for n in range(10_000))
    one = b"x: " + b"y" * 600_000
    for headers in (many, one, b"x: " + b"y" * 40_000 + b"\r\n\r\n"):
        assert (await raw(gateway, line + headers)).startswith(b"HTTP/1.1 431")
    monkeypatch.setattr(limits, "HTTP_HEADERS_TIMEOUT_MS", 50)
    for begun in (b"", line):
        assert await raw(gateway, begun) == b""


async def test_what_is_no_http_gets_a_400(gateway: RunningGateway) -> None:
    assert (await raw(gateway, b"\x16\x03\x01\x02\x00bee\r\n\r\n")).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "bees.example:7780"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:1", "Origin": "http://localhost:1"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "proxy.example"}, 200),
    ],
)
async def test_pages_of_other_sites_get_nothing(headers: dict[str, str], status: int) -> None:
    async with running_gateway("127.0.0.1:1", public_hosts=["Proxy.example"]) as gateway:
        answer = await gateway.client.get("/healthz", headers=headers)
        assert answer.status_code == status


async def test_head_is_answered_without_a_body(gateway: RunningGateway) -> None:
    answer = await gateway.client.head("/openapi.json")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 1_000


async def test_connections_beyond_the_limit_are_told_so() -> None:
    async with (
        running_gateway("127.0.0.1:1", connections_max=2) as gateway,
        AsyncExitStack() as stack,
    ):
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=f"http://{gateway.address}", trust_env=False)
            )
            for _ in range(3)
        ]
        answers = [await client.get("/v1/healthz") for client in clients]
        assert [answer.status_code for answer in answers] == [404, 404, 503]
        assert answers[2].json()["error"]["code"] == "too_many_connections"
        assert answers[2].headers["retry-after"] == "1"
        await clients[0].aclose()
        await eventually(lambda: gateway.gateway.server.connections_count == 2, "one is gone")
        assert (await clients[2].get("/healthz")).status_code == 200


async def test_no_internals_are_told(gateway: RunningGateway) -> None:
    """Whatever goes wrong, no class, path or library speaks to a client."""
    answers = [
        await gateway.client.post("/v1/completions", json=TEXT),
        await gateway.client.post("/v1/completions", json={"prompt": 7, "bees": {}}),
        await gateway.client.post("/v2/jobs", json={"bees": 1}),
    ]
    for answer in answers:
        text = json.dumps(answer.json())
        for word in ("Traceback", "grpc", "pydantic", ".py", 'Request"', "127.0.0.1:1", "pb2"):
            assert word not in text, text
        assert "server" not in answer.headers
