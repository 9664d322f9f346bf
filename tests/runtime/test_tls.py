"""TLS of a server and a channel: who gets through, and what a wrong file is called at the start."""

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from beeyard_core import link_limits
from beeyard_runtime.config import ServiceSettings
from beeyard_runtime.faults import StartFailed
from beeyard_runtime.rpc_channel import open_channel
from beeyard_runtime.rpc_server import RpcServer
from beeyard_runtime.security.dialing import Dialing, token_source
from beeyard_runtime.security.protection import Protection, unprotected
from beeyard_runtime.security.renewal import TlsFiles
from beeyard_runtime.security.tls import NO_TLS, Tls, TlsSource, read_tls
from beeyard_runtime.telemetry import Telemetry
from beeyard_runtime.testing import ManualClock
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import SecretStr

from tests.support.lab import NOW, NOW_MS, Lab, Shown


@asynccontextmanager
async def serving(tls: TlsSource) -> AsyncIterator[str]:
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


def _put(shown: Shown, place: Shown) -> None:
    """Replace the files of a certificate, the key first, as a renewal does."""
    shown.key.replace(place.key)
    shown.cert.replace(place.cert)


async def test_a_server_shows_a_renewed_certificate_to_those_who_come_later(tmp_path: Path) -> None:
    lab, other = Lab(tmp_path), Lab(tmp_path, "another lab")
    queen, clock = lab.certificate("queen"), ManualClock(wall_ms=NOW_MS)
    files = TlsFiles(lab.settings(queen), clock)
    async with serving(files) as address:
        assert await reach(address, Dialing(lab.tls())) is grpc.StatusCode.OK
        async with open_channel(address, dialing=Dialing(lab.tls())) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            _put(other.certificate("renewed"), queen)
            await clock.advance(link_limits.CERTS_LOOK_MS)
            assert await reach(address, Dialing(other.tls())) is grpc.StatusCode.OK
            assert await reach(address, Dialing(lab.tls())) is grpc.StatusCode.UNAVAILABLE
            # Who was there before is not disturbed, and may even begin another call.
            assert not watch.done()
            check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert (await check).status == health_pb2.HealthCheckResponse.SERVING
            watch.cancel()


async def test_a_server_believes_a_new_authority_without_a_restart(tmp_path: Path) -> None:
    lab, other = Lab(tmp_path), Lab(tmp_path, "another lab")
    stranger = Tls(own=other.tls(other.certificate("stranger")).own, ca=lab.tls().ca)
    clock = ManualClock(wall_ms=NOW_MS)
    settings = lab.settings(lab.certificate("queen"), needs_client_cert=True)
    async with serving(TlsFiles(settings, clock)) as address:
        assert await reach(address, Dialing(stranger)) is grpc.StatusCode.UNAVAILABLE
        lab.ca.write_bytes(lab.ca.read_bytes() + other.ca.read_bytes())
        await clock.advance(link_limits.CERTS_LOOK_MS)
        assert await reach(address, Dialing(stranger)) is grpc.StatusCode.OK


async def test_half_a_renewal_changes_nothing_until_it_is_whole(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lab = Lab(tmp_path)
    queen, clock = lab.certificate("queen"), ManualClock(wall_ms=NOW_MS)
    files = TlsFiles(lab.settings(queen), clock)
    first, renewed = files.now(), lab.certificate("renewed")
    renewed.key.replace(queen.key)
    await clock.advance(link_limits.CERTS_LOOK_MS)
    assert files.now() is first
    assert "certificates_unusable" in capfd.readouterr().err
    queen.cert.unlink()
    await clock.advance(link_limits.CERTS_LOOK_MS)
    assert files.now() is first
    renewed.cert.replace(queen.cert)
    # It is looked for once a second, however many come.
    assert files.now() is first
    await clock.advance(link_limits.CERTS_LOOK_MS)
    assert files.now() is not first
    assert files.now() is files.now()


async def test_a_certificate_that_nobody_renews_is_complained_of_once_a_day(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lab, clock = Lab(tmp_path), ManualClock(wall_ms=NOW_MS)
    files = TlsFiles(lab.settings(lab.certificate("queen", days=15)), clock)
    assert "expires_soon" not in capfd.readouterr().err
    told = []
    for _ in range(16):
        await clock.advance(link_limits.CERTS_WARN_MS)
        for _ in range(3):
            files.now()
        told.append(capfd.readouterr().err)
    assert [line.count("certificate_expires_soon") for line in told] == [1] * 14 + [0] * 2
    assert [line.count("certificate_expired") for line in told] == [0] * 14 + [1] * 2


async def test_a_channel_shows_a_renewed_certificate_in_calls_that_begin_later(
    tmp_path: Path,
) -> None:
    lab, other = Lab(tmp_path), Lab(tmp_path, "another lab")
    own, clock = lab.certificate("client"), ManualClock(wall_ms=NOW_MS)
    settings = lab.settings(own)
    files = TlsFiles(settings, clock)
    old = lab.tls(lab.certificate("queen"), needs_client_cert=True)
    new = other.tls(other.certificate("queen2"), needs_client_cert=True)
    async with serving(old) as before, serving(new) as after:
        channels = [open_channel(address, dialing=Dialing(files)) for address in (before, after)]
        stubs = [health_pb2_grpc.HealthStub(channel) for channel in channels]
        watch = stubs[0].Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs[1].Check(health_pb2.HealthCheckRequest(), timeout=10)
        other.ca.replace(lab.ca)
        _put(other.certificate("client2"), own)
        await clock.advance(link_limits.CERTS_LOOK_MS)
        # The same stub, and a stream that does not notice.
        await stubs[1].Check(health_pb2.HealthCheckRequest(), timeout=10)
        with pytest.raises(grpc.aio.AioRpcError):
            await stubs[0].Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert not watch.done()
        for channel in channels:
            await channel.close(None)
        assert watch.done()


async def test_a_channel_is_closed_when_the_next_but_one_has_taken_over(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    own, clock = lab.certificate("client"), ManualClock(wall_ms=NOW_MS)
    files = TlsFiles(lab.settings(own), clock)
    server = lab.tls(lab.certificate("queen"), needs_client_cert=True)
    async with (
        serving(server) as address,
        open_channel(address, dialing=Dialing(files)) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        watches = []
        for time in range(3):
            watch = stub.Watch(health_pb2.HealthCheckRequest())
            await watch.read()
            watches.append(watch)
            _put(lab.certificate(f"renewed-{time}"), own)
            await clock.advance(link_limits.CERTS_LOOK_MS)
        # Two renewals after the first stream began, its channel is closed; what came later goes on.
        assert await watches[0].code() is grpc.StatusCode.CANCELLED
        assert not watches[1].done()
        assert not watches[2].done()


async def test_https_shows_a_renewed_certificate_to_those_who_come_later(tmp_path: Path) -> None:
    lab, other = Lab(tmp_path), Lab(tmp_path, "another lab")
    own, clock = lab.certificate("gateway"), ManualClock(wall_ms=NOW_MS)
    context = TlsFiles(lab.settings(own), clock).server_context()

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def shake_hands(ca: Path) -> bool:
        trust = ssl.create_default_context(cafile=ca)
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
        except ssl.SSLError:
            return False
        writer.close()
        return True

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with server:
        assert (await shake_hands(lab.ca), await shake_hands(other.ca)) == (True, False)
        _put(other.certificate("renewed"), own)
        await clock.advance(link_limits.CERTS_LOOK_MS)
        assert (await shake_hands(lab.ca), await shake_hands(other.ca)) == (False, True)
