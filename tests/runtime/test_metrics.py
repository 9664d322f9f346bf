"""Figures: bounded labels, samples that a scrape finds whole, and the port that serves them."""

import urllib.error
import urllib.request

import pytest
from beeyard_core import limits
from beeyard_runtime.faults import ListenFailed
from beeyard_runtime.metrics import LABEL_VALUES_MAX, Family, Figures, Sampled
from beeyard_runtime.metrics_server import MetricsServer

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
