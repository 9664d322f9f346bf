"""Tokens as a guard sees them: which count, for how long, how often, and what becomes of streams."""

import asyncio
import datetime as dt
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from beeyard.queen.v1 import fleet_service_pb2 as fleet_pb
from beeyard.queen.v1 import fleet_service_pb2_grpc as fleet_rpc
from beeyard.queen.v1 import policy_service_pb2 as policy_pb
from beeyard.queen.v1 import policy_service_pb2_grpc as policy_rpc
from beeyard_core import limits
from beeyard_core.refusal import Refusal
from beeyard_runtime.config import ServiceSettings
from beeyard_runtime.faults import ListenFailed, StartFailed
from beeyard_runtime.listening import allowed_address
from beeyard_runtime.rpc_errors import RpcRefusal
from beeyard_runtime.rpc_server import RpcServer
from beeyard_runtime.security.audit import AuditTrail
from beeyard_runtime.security.authorization import METHODS
from beeyard_runtime.security.callers import Caller, Role, current
from beeyard_runtime.security.certificates import PeerName
from beeyard_runtime.security.dialing import token_in
from beeyard_runtime.security.guard import Guard, Shown
from beeyard_runtime.security.protection import Protection, protect
from beeyard_runtime.security.tls import NO_TLS
from beeyard_runtime.security.token_file import FileTokens, OwnToken
from beeyard_runtime.telemetry import Telemetry
from beeyard_runtime.testing import ManualClock
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.eventually import eventually
from tests.support.lab import NOW_MS, Lab
from tests.support.raw_calls import Outcome
from tests.support.tokens import Tokens, shows
from tests.support.told import refusal

STOP_WORKER = METHODS["beeyard.queen.v1.FleetService/StopWorker"]
LOOKED_MS = limits.TOKENS_LOOK_MS


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(wall_ms=NOW_MS)


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "tokens.json")


@pytest.fixture
def guard(tokens: Tokens, clock: ManualClock) -> Guard:
    return Guard(FileTokens(tokens.path, clock), clock, AuditTrail(None, clock))


async def looked(clock: ManualClock) -> None:
    await clock.advance(LOOKED_MS)


def why_not(guard: Guard, token: str, peer: str = "ipv4:10.0.0.1") -> Refusal:
    with pytest.raises(RpcRefusal) as refused:
        guard.know(STOP_WORKER, Shown(token, peer=peer))
    assert not token or token not in str(refused.value)
    return refused.value.refused.reason


# --- Which tokens count ---


async def test_a_token_counts_from_its_making_to_its_revocation(
    guard: Guard, tokens: Tokens, clock: ManualClock
) -> None:
    token = tokens.add("olga", Role.OPERATOR)
    assert why_not(guard, token) is Refusal.UNAUTHENTICATED
    await looked(clock)
    assert guard.know(STOP_WORKER, Shown(token)).name == "olga"
    tokens.revoke("olga")
    await looked(clock)
    assert why_not(guard, token) is Refusal.UNAUTHENTICATED


async def test_a_token_ends_at_its_moment(guard: Guard, tokens: Tokens, clock: ManualClock) -> None:
    ends = dt.datetime.fromtimestamp(NOW_MS / 1_000 + 60, dt.UTC)
    token = tokens.add("olga", Role.OPERATOR, expires=ends)
    await looked(clock)
    assert guard.know(STOP_WORKER, Shown(token)).name == "olga"
    await clock.advance(60_000)
    assert why_not(guard, token) is Refusal.UNAUTHENTICATED


async def test_what_differs_by_a_letter_is_not_the_token(
    guard: Guard, tokens: Tokens, clock: ManualClock
) -> None:
    token = tokens.add("olga", Role.OPERATOR)
    await looked(clock)
    forged = token[:-1] + ("A" if token[-1] != "A" else "B")
    for wrong in ("", "bee", token + "x", token[:-1], forged, token.upper(), f" {token}"):
        assert why_not(guard, wrong, peer=wrong) is Refusal.UNAUTHENTICATED


def test_the_file_tells_nobody_a_token(tokens: Tokens) -> None:
    token = tokens.add("olga", Role.OPERATOR)
    kept = tokens.path.read_text(encoding="utf-8")
    # bee_ID_SECRET, of which the secret may have underscores, too.
    assert token.split("_", 2)[2] not in kept
    assert tokens.path.stat().st_mode & 0o777 == 0o600


async def test_a_file_that_breaks_changes_nothing_until_it_is_whole_again(
    guard: Guard, tokens: Tokens, clock: ManualClock
) -> None:
    token = tokens.add("olga", Role.OPERATOR)
    await looked(clock)
    assert guard.know(STOP_WORKER, Shown(token)).name == "olga"
    whole = tokens.path.read_bytes()
    for broken in (b"", b"{", b'{"tokens": [{"name": "x"}]}'):
        tokens.path.write_bytes(broken)
        await looked(clock)
        assert guard.know(STOP_WORKER, Shown(token)).name == "olga"
    tokens.path.write_bytes(whole)
    tokens.revoke("olga")
    await looked(clock)
    assert why_not(guard, token) is Refusal.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"{", 0o600, "Invalid JSON"),
        (b'{"token": []}', 0o600, "Extra inputs"),
        (b"{}", 0o620, "can be written by others"),
        (None, 0o600, "beeyard tokens create makes it"),
    ],
)
def test_a_file_that_is_wrong_at_the_start_is_told(
    tmp_path: Path, clock: ManualClock, content: bytes | None, mode: int, words: str
) -> None:
    path = tmp_path / "tokens.json"
    if content is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(StartFailed, match=words):
        FileTokens(path, clock)


@pytest.mark.parametrize(
    ("roles", "bounds"),
    [
        ([Role.CLIENT], {"tenant_id": ""}),
        ([Role.POOL], {}),
        ([Role.OPERATOR], {"tenant_id": "a"}),
        ([Role.OPERATOR], {"pool_id": "p"}),
        ([Role.WORKER], {"worker_id": "w"}),
        ([], {}),
    ],
)
def test_a_token_is_bound_as_its_roles_need(
    tokens: Tokens, roles: list[Role], bounds: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match="validation error"):
        tokens.add("x", *roles, **bounds)


# --- How often ---


async def test_a_token_begins_so_many_calls_a_second_and_no_more(
    guard: Guard, tokens: Tokens, clock: ManualClock
) -> None:
    token = tokens.add("olga", Role.OPERATOR, requests_per_second=2)
    await looked(clock)
    for _ in range(2):
        guard.know(STOP_WORKER, Shown(token))
    assert why_not(guard, token) is Refusal.QUOTA_EXCEEDED
    await clock.advance(500)
    guard.know(STOP_WORKER, Shown(token))
    assert why_not(guard, token) is Refusal.QUOTA_EXCEEDED


async def test_guessing_is_slowed_down_and_holds_up_nobody_who_knows(
    guard: Guard, tokens: Tokens, clock: ManualClock
) -> None:
    token = tokens.add("olga", Role.OPERATOR)
    await looked(clock)
    guesses = [why_not(guard, "guess") for _ in range(limits.FAILURES_BURST + 5)]
    assert guesses.count(Refusal.UNAUTHENTICATED) == limits.FAILURES_BURST
    assert guesses[-1] is Refusal.QUOTA_EXCEEDED
    assert guard.know(STOP_WORKER, Shown(token, peer="ipv4:10.0.0.1")).name == "olga"
    assert why_not(guard, "guess", peer="ipv4:10.0.0.2") is Refusal.UNAUTHENTICATED


# --- Certificates ---


def test_a_certificate_of_the_fleet_needs_no_token(guard: Guard) -> None:
    attach = METHODS["beeyard.worker.v1.WorkerService/Attach"]
    pool = guard.know(attach, Shown(uris=(PeerName("p1").uri,)))
    assert (set(pool.roles), pool.pool_id) == ({Role.POOL}, "p1")
    worker = guard.know(attach, Shown(uris=(PeerName("p1", "w1").uri,)))
    assert (set(worker.roles), worker.pool_id) == ({Role.WORKER}, "p1")
    admission = guard.authorize(attach, worker)
    assert admission.is_pool("p1")
    assert not admission.is_pool("p2")
    assert admission.is_worker("w1")
    assert not admission.is_worker("w2")


def test_a_certificate_that_names_two_names_nobody(guard: Guard) -> None:
    both = (PeerName("p1").uri, PeerName("p2").uri)
    with pytest.raises(RpcRefusal, match="UNAUTHENTICATED"):
        guard.know(STOP_WORKER, Shown(uris=both))


async def test_a_token_of_one_pool_with_the_certificate_of_another_is_refused(
    guard: Guard, tokens: Tokens, clock: ManualClock
) -> None:
    token = tokens.add("p1", Role.POOL, pool_id="p1")
    await looked(clock)
    assert guard.know(STOP_WORKER, Shown(token, (PeerName("p1").uri,))).name == "p1"
    with pytest.raises(RpcRefusal, match="PERMISSION_DENIED"):
        guard.know(STOP_WORKER, Shown(token, (PeerName("p2").uri,)))


def test_a_host_takes_its_own_certificate_and_no_other_pools(
    tmp_path: Path, clock: ManualClock
) -> None:
    lab = Lab(tmp_path)
    tls = lab.tls(lab.certificate("p1"), needs_client_cert=True)
    guard = protect(ServiceSettings(), tls, clock, pool_id="p1").guard
    drain = METHODS["beeyard.worker.v1.EngineService/Drain"]
    assert guard.know(drain, Shown(uris=(PeerName("p1").uri,))).pool_id == "p1"
    for shown in (Shown(), Shown(uris=(PeerName("p2").uri,)), Shown(token="anything")):
        with pytest.raises(RpcRefusal, match="UNAUTHENTICATED"):
            guard.know(drain, shown)


# --- Roles ---


def test_a_client_that_operates_besides_is_bound_only_as_a_client(guard: Guard) -> None:
    caller = Caller(name="x", roles=frozenset({Role.CLIENT, Role.OPERATOR}), tenant_id="a")
    submit = METHODS["beeyard.queen.v1.InferenceService/SubmitJob"]
    look = METHODS["beeyard.queen.v1.InferenceService/GetJob"]
    assert guard.authorize(submit, caller).tenant_id == "a"
    assert guard.authorize(look, caller).tenant_id is None


def test_what_has_no_row_is_for_nobody(guard: Guard) -> None:
    admin = Caller(name="x", roles=frozenset(Role))
    with pytest.raises(RpcRefusal, match="PERMISSION_DENIED"):
        guard.authorize(None, admin)


def test_the_scheme_of_a_header_is_bearer_in_any_case() -> None:
    assert token_in("Bearer x") == token_in("bearer x") == token_in("BEARER  x") == "x"
    assert token_in("Basic x") == token_in("Bearer") == token_in("x") == ""


def test_without_a_file_a_host_takes_its_own_token(clock: ManualClock) -> None:
    own = OwnToken(lambda: "secret", "p1")
    found = own.find("secret")
    assert found is not None
    assert (found.caller.pool_id, set(found.caller.roles)) == ("p1", {Role.POOL, Role.OPERATOR})
    assert own.find("secreT") is None
    assert own.find("") is None


# --- Which addresses ---


def test_an_address_beyond_loopback_needs_tls_and_tokens(
    tmp_path: Path, tokens: Tokens, clock: ManualClock
) -> None:
    lab = Lab(tmp_path)
    tls = lab.tls(lab.certificate("queen"))
    with_tokens, without = ServiceSettings(tokens=tokens.path), ServiceSettings()
    cases = {
        "neither": protect(without, NO_TLS, clock),
        "only TLS": protect(without, tls, clock),
        "only tokens": protect(with_tokens, NO_TLS, clock),
        "authorities but no certificate": protect(with_tokens, lab.tls(), clock),
    }
    assert not any(protection.is_complete for protection in cases.values())
    for listen in ("0.0.0.0:7700", "[::]:7700", "10.0.0.1:7700", "queen.lab:7700", ":7700"):
        with pytest.raises(ListenFailed, match="set tls_cert, tls_key and tokens"):
            allowed_address(listen, is_protected=False)
    assert protect(with_tokens, tls, clock).is_complete
    assert protect(without, tls, clock, own_token=lambda: "x", pool_id="p").is_complete
    assert allowed_address("0.0.0.0:7700", is_protected=True) == ("0.0.0.0", 7_700)
    assert allowed_address("127.0.0.2:7700", is_protected=False) == ("127.0.0.2", 7_700)
    with pytest.raises(ListenFailed, match="HOST:PORT"):
        allowed_address(":7700", is_protected=True)


# --- At the wire ---


class Desk(fleet_rpc.FleetServiceServicer, policy_rpc.PolicyServiceServicer):
    """Answers what the gate lets through, and remembers as whom."""

    def __init__(self) -> None:
        self.callers: list[str] = []
        self.ended = 0

    async def StopWorker(  # noqa: N802
        self, request: fleet_pb.StopWorkerRequest, context: object
    ) -> fleet_pb.StopWorkerResponse:
        self.callers.append(current().caller.name)
        return fleet_pb.StopWorkerResponse()

    async def WatchDecisions(  # type: ignore[override]  # noqa: N802
        self,
        request: policy_pb.WatchDecisionsRequest,
        context: "grpc.aio.ServicerContext[object, object]",
    ) -> None:
        self.callers.append(current().caller.name)
        try:
            await context.send_initial_metadata(())
            await asyncio.Event().wait()
        finally:
            self.ended += 1


@pytest.fixture
async def desk(
    guard: Guard, tmp_path: Path, clock: ManualClock
) -> AsyncIterator[tuple[Desk, str, Path]]:
    trail = tmp_path / "audit.jsonl"
    guard.audit = AuditTrail(trail, clock)
    server = RpcServer(
        "test", listen="127.0.0.1:0", telemetry=Telemetry(), protection=Protection(guard)
    )
    made = Desk()  # type: ignore[abstract]  # what it lacks, nobody asks it
    server.register(fleet_rpc.add_FleetServiceServicer_to_server, made)
    server.register(policy_rpc.add_PolicyServiceServicer_to_server, made)
    await server.start()
    try:
        yield made, server.address, trail
    finally:
        await server.stop(0)


def told(found: Outcome) -> str:
    return found.reason


async def test_every_change_is_in_the_trail_before_its_caller_hears_of_it(
    desk: tuple[Desk, str, Path], tokens: Tokens, clock: ManualClock
) -> None:
    made, address, trail = desk
    operator, client = tokens.add("olga", Role.OPERATOR), tokens.add("carl", Role.CLIENT)
    await looked(clock)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = fleet_rpc.FleetServiceStub(channel)
        request = fleet_pb.StopWorkerRequest(worker_id="w1")
        await stub.StopWorker(request, metadata=shows(operator))
        assert told(await refusal(stub.StopWorker(request, metadata=shows(client)))) == (
            "PERMISSION_DENIED"
        )
        assert told(await refusal(stub.StopWorker(request))) == "UNAUTHENTICATED"
    lines = [json.loads(line) for line in trail.read_text(encoding="utf-8").splitlines()]
    assert [(line["who"], line["result"]) for line in lines] == [
        ("olga", "OK"),
        ("carl", "PERMISSION_DENIED"),
    ]
    assert lines[0]["action"] == "beeyard.queen.v1.FleetService/StopWorker"
    assert lines[0]["what"] == {"worker_id": "w1"}
    assert lines[0]["peer"].startswith("ipv4:127.0.0.1")
    assert trail.stat().st_mode & 0o777 == 0o600
    assert made.callers == ["olga"]
    assert operator not in trail.read_text(encoding="utf-8")


async def test_a_stream_ends_when_its_token_is_revoked(
    desk: tuple[Desk, str, Path], tokens: Tokens, clock: ManualClock
) -> None:
    made, address, _ = desk
    token, other = tokens.add("olga", Role.OPERATOR), tokens.add("omar", Role.OPERATOR)
    await looked(clock)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = policy_rpc.PolicyServiceStub(channel)
        request = policy_pb.WatchDecisionsRequest()
        cut = stub.WatchDecisions(request, metadata=shows(token))
        kept = stub.WatchDecisions(request, metadata=shows(other))
        await cut.initial_metadata()
        await kept.initial_metadata()
        tokens.revoke("olga")
        await looked(clock)
        assert told(await refusal(cut)) == "UNAUTHENTICATED"
        await eventually(lambda: made.ended == 1, "the servicer of the stream has ended")
        assert not kept.done()
        kept.cancel()


async def test_health_is_told_to_everybody(desk: tuple[Desk, str, Path]) -> None:
    async with grpc.aio.insecure_channel(desk[1]) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
