"""TLS of a server and a channel: who gets through, and what a wrong file is called at the start."""

import datetime as dt
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from beeyard_runtime.config import ServiceSettings
from beeyard_runtime.faults import StartFailed
from beeyard_runtime.rpc_channel import open_channel
from beeyard_runtime.rpc_server import RpcServer
from beeyard_runtime.security.dialing import Dialing, token_source
from beeyard_runtime.security.protection import Protection, unprotected
from beeyard_runtime.security.tls import NO_TLS, Tls, read_tls
from beeyard_runtime.telemetry import Telemetry
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import SecretStr

from tests.support.lab import NOW, NOW_MS, Lab


@asynccontextmanager
async def serving(tls: Tls) -> AsyncIterator[str]:
    server = RpcServer(
        "test",
        listen="127.0.0.1:0",
        telemetry=Telemetry(),
        protection=Protection(unprotected().guard, tls),
    )
    await server.start()
    try:
        yield server.address
    finally:
        await server.stop(0)


async def reach(address: str, dialing: Dialing) -> grpc.StatusCode:
    """Return how a call ends there."""
    async with open_channel(address, dialing=dialing) as channel:
        try:
            await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=10
            )
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


async def test_a_link_with_tls_is_for_those_who_trust_its_authority(tmp_path: Path) -> None:
    lab, other = Lab(tmp_path), Lab(tmp_path, "another lab")
    async with serving(lab.tls(lab.certificate("queen"))) as address:
        assert await reach(address, Dialing(lab.tls())) is grpc.StatusCode.OK
        assert await reach(address, Dialing(other.tls())) is grpc.StatusCode.UNAVAILABLE
        assert await reach(address, Dialing(NO_TLS)) is grpc.StatusCode.UNAVAILABLE


async def test_a_certificate_is_good_for_its_hosts_only(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    tls = lab.tls(lab.certificate("queen", hosts=["queen.lab"]))
    async with serving(tls) as address:
        named = Dialing(lab.tls(), server_name="queen.lab")
        assert await reach(address, named) is grpc.StatusCode.OK
        named = Dialing(lab.tls(), server_name="other.lab")
        assert await reach(address, named) is grpc.StatusCode.UNAVAILABLE


async def test_where_certificates_are_required_nobody_comes_in_without(tmp_path: Path) -> None:
    lab, other = Lab(tmp_path), Lab(tmp_path, "another lab")
    queen, client, stranger = (
        lab.certificate("queen"),
        lab.certificate("client"),
        other.certificate("stranger"),
    )
    async with serving(lab.tls(queen, needs_client_cert=True)) as address:
        assert await reach(address, Dialing(lab.tls(client))) is grpc.StatusCode.OK
        assert await reach(address, Dialing(lab.tls())) is grpc.StatusCode.UNAVAILABLE
        foreign = Tls(own=other.tls(stranger).own, ca=lab.tls().ca)
        assert await reach(address, Dialing(foreign)) is grpc.StatusCode.UNAVAILABLE


def test_what_does_not_fit_is_told_at_the_start(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    queen, other = lab.certificate("queen"), lab.certificate("other")
    old = lab.certificate("old", days=1, now=NOW - dt.timedelta(days=9))
    early = lab.certificate("early", now=NOW + dt.timedelta(days=9))
    garbage = tmp_path / "garbage.pem"
    garbage.write_bytes(b"no certificate")
    missing = tmp_path / "missing.pem"
    cases: list[tuple[dict[str, object], str]] = [
        ({"tls_cert": queen.cert}, "tls_key must be set together with tls_cert"),
        ({"tls_key": queen.key}, "tls_cert must be set together with tls_key"),
        ({"tls_cert": queen.cert, "tls_key": other.key}, "is not that of"),
        ({"tls_cert": old.cert, "tls_key": old.key}, "expired on"),
        ({"tls_cert": early.cert, "tls_key": early.key}, "is the clock of this machine right"),
        ({"tls_cert": garbage, "tls_key": queen.key}, "holds no certificate"),
        ({"tls_cert": queen.cert, "tls_key": garbage}, "is not a private key"),
        ({"tls_ca": garbage}, "(tls_ca) holds no certificate"),
        ({"tls_ca": missing}, "(tls_ca) cannot be read"),
        ({"tls_client_certs": "required"}, "needs tls_cert, tls_key and tls_ca"),
    ]
    garbage.chmod(0o600)
    for settings, words in cases:
        with pytest.raises(StartFailed) as told:
            read_tls(ServiceSettings(**settings), now_ms=NOW_MS)  # type: ignore[arg-type]
        assert words in str(told.value), settings


def test_a_key_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    queen = lab.certificate("queen")
    queen.key.chmod(0o644)
    with pytest.raises(StartFailed, match="chmod 600"):
        lab.tls(queen)


def test_a_token_is_not_sent_where_others_could_read_it(tmp_path: Path) -> None:
    token = token_source(SecretStr("secret-of-mine"), None)
    with pytest.raises(StartFailed) as told:
        open_channel("10.0.0.1:7700", dialing=Dialing(NO_TLS, token))
    assert "without TLS" in str(told.value)
    assert "secret-of-mine" not in str(told.value)


async def test_a_token_in_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n", encoding="ascii")
    source = token_source(SecretStr(""), file)
    assert source is not None
    assert source() == "first"
    fresh = tmp_path / "fresh"
    fresh.write_text("second\n", encoding="ascii")
    fresh.replace(file)
    assert source() == "second"
    # Between the removal and the next write the old one still serves.
    file.unlink()
    assert source() == "second"


def test_a_token_comes_from_one_place(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match="not both"):
        token_source(SecretStr("x"), tmp_path / "token")
    with pytest.raises(StartFailed, match="cannot be read"):
        token_source(SecretStr(""), tmp_path / "token")
    assert token_source(SecretStr(""), None) is None
