"""Figures: bounded labels, samples that a scrape finds whole, and the port that serves them."""

import asyncio
import socket
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from beeyard_core import limits, link_limits
from beeyard_runtime.faults import ListenFailed
from beeyard_runtime.metrics import LABEL_VALUES_MAX, Family, Figures, Sampled
from beeyard_runtime.metrics_server import MetricsServer
from beeyard_runtime.security.authorization import FIGURES
from beeyard_runtime.security.callers import Role
from beeyard_runtime.security.certificates import PeerName
from beeyard_runtime.security.protection import protect
from beeyard_runtime.security.renewal import TlsFiles
from beeyard_runtime.testing import ManualClock

from tests.support.lab import NOW_MS, Lab
from tests.support.tokens import Tokens

#: What a token of a role must be bound to.
BOUND: dict[Role, dict[str, object]] = {
    Role.POOL: {"pool_id": "gpu1"},
    Role.WORKER: {"pool_id": "gpu1"},
}

#: The budget of the contract; a process may tell fewer apart, never more.
BUDGET = {
    "engine": 4,
    "engine_version": 64,
    "pool_id": 256,
    "priority": 8,
    "reason": 64,
    "model_id": 1_024,
}


def lines_of(figures: Figures) -> list[str]:
    return [each for each in figures.exposition().decode().splitlines() if not each.startswith("#")]


def test_labels_are_bounded_as_the_contract_says() -> None:
    assert {label: LABEL_VALUES_MAX[label] for label in BUDGET} == BUDGET


def test_no_label_ever_names_a_job_a_tenant_or_a_worker() -> None:
    assert not {"job_id", "tenant_id", "worker_id", "session_id"} & set(LABEL_VALUES_MAX)


@pytest.mark.parametrize("label", sorted(LABEL_VALUES_MAX))
def test_values_beyond_a_labels_bound_count_as_other(label: str) -> None:
    figures = Figures()
    counter = figures.counter("things", "Things.", label)
    count = LABEL_VALUES_MAX[label] + 10
    for number in range(count):
        counter.of(f"made-up-{number}").inc()
    found = lines_of(figures)
    assert len(found) == LABEL_VALUES_MAX[label]
    assert f'things_total{{{label}="other"}} 11.0' in found


def test_a_label_has_the_same_bound_in_every_figure_of_a_process() -> None:
    figures = Figures()
    first, second = figures.counter("a", "A.", "pinned"), figures.counter("b", "B.", "pinned")
    first.of("true").inc()
    second.of("false").inc()
    assert 'b_total{pinned="other"} 1.0' in lines_of(figures)


def test_a_label_that_the_contract_does_not_have_is_refused() -> None:
    with pytest.raises(KeyError):
        Figures().counter("things", "Things.", "worker_id")


def test_a_sample_replaces_the_last_one_whole() -> None:
    figures = Figures()
    sampled, family = Sampled(figures), Family("depth", "Depth.", ("priority",))
    assert lines_of(figures) == []
    sampled.replace({family: [(("BATCH",), 3.0), (("NORMAL",), 1.0)]})
    sampled.replace({family: [(("NORMAL",), 2.0)]})
    assert lines_of(figures) == ['depth{priority="NORMAL"} 2.0']


def test_sampled_values_that_fall_together_are_added_up() -> None:
    figures = Figures()
    values = [((f"p{number}",), 1.0) for number in range(limits.METRIC_POOLS_MAX + 4)]
    Sampled(figures).replace({Family("units", "Units.", ("pool_id",)): values})
    assert 'units{pool_id="other"} 5.0' in lines_of(figures)


def test_a_sampled_family_has_a_bound_on_its_series() -> None:
    figures = Figures()
    labels = [(f"m{one}", f"p{two}") for one in range(100) for two in range(100)]
    family = Family("workers", "Workers.", ("model_id", "pool_id"))
    Sampled(figures).replace({family: [(each, 1.0) for each in labels]})
    assert len(lines_of(figures)) == limits.METRIC_SERIES_MAX


def test_figures_are_served_until_the_server_is_stopped() -> None:
    figures = Figures()
    figures.counter("things", "Things.").of().inc(2)
    server = MetricsServer(figures.registry, "127.0.0.1:0")
    assert server.address is None
    server.start()
    address = server.address
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            assert "things_total 2.0" in answer.read().decode()
        with pytest.raises(ListenFailed, match="the port is in use"):
            MetricsServer(figures.registry, str(address)).start()
    finally:
        server.stop()
        server.stop()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://{address}/metrics", timeout=10)


def test_no_address_means_that_nothing_is_served() -> None:
    server = MetricsServer(Figures().registry, "")
    server.start()
    assert server.address is None


def scraped(address: str | None, token: str = "", tls: ssl.SSLContext | None = None) -> int:
    """Return the status with which a scrape ends; 0: there was no handshake."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"{'https' if tls else 'http'}://{address}/metrics"
    try:
        asked = urllib.request.Request(url, headers=headers)  # noqa: S310 - of this test
        with urllib.request.urlopen(asked, timeout=10, context=tls) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code
    except (urllib.error.URLError, OSError):
        return 0


def test_figures_are_for_those_who_may_read_them_over_tls(tmp_path: Path) -> None:
    lab, tokens = Lab(tmp_path), Tokens(tmp_path / "tokens.json")
    shown = {role: tokens.add(role.value, role, **BOUND.get(role, {})) for role in Role}
    clock = ManualClock(wall_ms=NOW_MS)
    settings = lab.settings(lab.certificate("queen")).model_copy(update={"tokens": tokens.path})
    files = TlsFiles(settings, clock)
    server = MetricsServer(Figures().registry, "127.0.0.1:0", protect(settings, files, clock))
    trust = ssl.create_default_context(cafile=lab.ca)
    server.start()
    try:
        found = {role: scraped(server.address, token, trust) for role, token in shown.items()}
        assert FIGURES.roles is not None
        assert frozenset(role for role, status in found.items() if status == 200) == FIGURES.roles
        assert {status for role, status in found.items() if role not in FIGURES.roles} == {403}
        assert scraped(server.address, "", trust) == 401
        assert scraped(server.address, "bee_0123456789ab_guessed", trust) == 401
        assert scraped(server.address, shown[Role.MONITOR]) == 0
        tokens.revoke(Role.MONITOR.value)
        asyncio.run(clock.advance(limits.TOKENS_LOOK_MS))
        assert scraped(server.address, shown[Role.MONITOR], trust) == 401
    finally:
        server.stop()


def test_a_certificate_of_a_pool_reads_figures_where_certificates_are_required(
    tmp_path: Path,
) -> None:
    lab, clock = Lab(tmp_path), ManualClock(wall_ms=NOW_MS)
    own = lab.certificate("gpu1", peer=PeerName("gpu1"))
    settings = lab.settings(own, needs_client_cert=True)
    protection = protect(settings, TlsFiles(settings, clock), clock, pool_id="gpu1")
    server = MetricsServer(Figures().registry, "127.0.0.1:0", protection)
    server.start()
    try:
        for name, pool_id, expected in (("gpu1", "gpu1", 200), ("gpu2", "gpu2", 401)):
            client = lab.certificate(f"of-{name}", peer=PeerName(pool_id))
            trust = ssl.create_default_context(cafile=lab.ca)
            assert scraped(server.address, "", trust) == 0
            trust.load_cert_chain(client.cert, client.key)
            assert scraped(server.address, "", trust) == expected
    finally:
        server.stop()


def test_the_port_leaves_loopback_only_with_tls_and_tokens() -> None:
    with pytest.raises(ListenFailed, match="without TLS and tokens"):
        MetricsServer(Figures().registry, "0.0.0.0:0").start()


def test_many_who_say_nothing_are_turned_away_and_keep_nobody_out_for_long() -> None:
    server = MetricsServer(Figures().registry, "127.0.0.1:0")
    server.start()
    assert server.address is not None
    host, _, port = server.address.rpartition(":")
    try:
        crowd = [
            socket.create_connection((host, int(port)), timeout=10)
            for _ in range(link_limits.METRICS_SCRAPES_MAX + 1)
        ]
        # The last finds no room: it is told so by the end of its connection.
        assert crowd[-1].recv(1) == b""
        for one in crowd:
            one.close()
        while scraped(server.address) != 200:
            pass
    finally:
        server.stop()
