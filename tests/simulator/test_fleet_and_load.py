"""Fleets and loads are read as they are meant, and what cannot be meant is refused at its line and column."""

from pathlib import Path

import pytest
from beeyard_core import limits
from beeyard_queen.simulator.arrivals import arrivals
from beeyard_queen.simulator.fleet import read_fleet
from beeyard_queen.simulator.load import read_load
from beeyard_queen.simulator.scenario import make_scenario
from beeyard_queen.simulator.shapes import ScenarioInvalid

from tests.support.scenarios import ONE_SLOT, specs, streams

FLEET = """\
models:
  - {name: small, vram_gib: 20, slots: 4}
  - {name: large, vram_gib: 70}
hosts:
  - name: host
    count: 2
    gpus: [{vram_gib: 80, count: 2}]
    workers: [{model: small, count: 3}]
"""
LOAD = """\
jobs: 10
streams:
  - rate_per_s: 5
    classes: {interactive: 1}
"""


def test_workers_go_where_the_most_memory_is_free() -> None:
    fleet = read_fleet(FLEET)
    assert [pool.pool_id for pool in fleet.pools] == ["host-1", "host-2"]
    devices = [worker.device for worker in fleet.pools[0].workers]
    assert devices == ["host-1-gpu-0", "host-1-gpu-1", "host-1-gpu-0"]


@pytest.mark.parametrize(
    ("old", "new", "line", "column", "said"),
    [
        ("slots: 4", "slot: 4", 2, 33, 'unknown field "slot"; did you mean "slots"?'),
        ("slots: 4", "slots: 0", 2, 40, "greater than or equal to 1"),
        ("slots: 4", "tokens_per_s: -1", 2, 47, "greater than 0"),
        ("vram_gib: 20", "vram_gib: many", 2, 29, "must be a number"),
        ("name: large", "name: small", 3, 12, "another model has this name"),
        ("model: small", "model: smal", 8, 23, "no such model"),
        ("count: 3", "count: 9", 8, 23, "no GPU has room for worker 9"),
        ("count: 2\n", "count: 1001\n", 6, 12, "less than or equal to 1000"),
        ("vram_gib: 80, count: 2", "vram_gib: 80, count: 65", 7, 34, "less than or equal to 64"),
        ("hosts:", "host:", 4, 1, 'unknown field "host"; did you mean "hosts"?'),
        ("models:", "models: &a", 1, 9, "anchors"),
        ("name: host\n", "name: host\n    models: [tiny]\n", 6, 14, "no such model"),
    ],
)
def test_a_fault_in_a_fleet_is_told_with_its_place(
    old: str, new: str, line: int, column: int, said: str
) -> None:
    assert old in FLEET
    with pytest.raises(ScenarioInvalid) as caught:
        read_fleet(FLEET.replace(old, new), "fleet.yaml")
    fault = caught.value
    assert said in fault.message
    assert (fault.line, fault.column) == (line, column)
    assert str(fault).startswith(f"fleet.yaml:{line}:{column}: ")


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("rate_per_s: 5", "rate_per_s: -5", 3, "greater than 0"),
        ("rate_per_s: 5", "rate_per_s: 1000001", 3, "less than or equal to 100000"),
        ("rate_per_s: 5", "from_s: 1", 3, "either rate_per_s or trace"),
        ("jobs: 10", "jobs: 0", 1, "greater than or equal to 1"),
        ("jobs: 10", f"jobs: {limits.SIMULATED_JOBS_MAX + 1}", 1, "less than or equal to"),
        ("interactive: 1", "urgent: 1", 4, "interactive"),
        ("interactive: 1", "interactive: 0", 4, "one share at least must be above 0"),
        ("interactive: 1", "interactive: -1", 4, "greater than or equal to 0"),
        ("rate_per_s: 5", "rate_per_s: 5\n    until_s: 1\n    from_s: 2", 3, "until_s must come"),
        ("streams:", "stream:", 2, 'did you mean "streams"?'),
    ],
)
def test_a_fault_in_a_load_is_told_with_its_line(old: str, new: str, line: int, said: str) -> None:
    assert old in LOAD
    with pytest.raises(ScenarioInvalid) as caught:
        read_load(LOAD.replace(old, new))
    assert said in caught.value.message
    assert caught.value.line == line


@pytest.mark.parametrize("text", ["", "- a\n", "just words", b"\xff", "a: [1", "x: 1\nx: 2\n"])
def test_what_is_no_fleet_at_all_is_refused(text: str | bytes) -> None:
    with pytest.raises(ScenarioInvalid):
        read_fleet(text)


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_bytes(b"#" * (limits.POLICY_SOURCE_BYTES_MAX + 1))
    with pytest.raises(ScenarioInvalid, match="larger than"):
        make_scenario(fleet=str(path))


def test_the_jobs_of_a_load_depend_on_nothing_but_the_seed() -> None:
    load = streams(
        "rate_per_s: 20, tenants: {a: 1, b: 2}, classes: {interactive: 1, batch: 1}",
        "rate_per_s: 5, answer_tokens: {mean: 50, shape: exponential}, deadline: {within_s: 9, share: 0.5}",
        jobs=200,
    )
    assert specs(ONE_SLOT, load, seed=7) == specs(ONE_SLOT, load, seed=7)
    assert specs(ONE_SLOT, load, seed=7) != specs(ONE_SLOT, load, seed=8)


def test_another_stream_does_not_change_the_jobs_of_the_first() -> None:
    one = "rate_per_s: 5, tenants: {steady: 1}"
    alone = specs(ONE_SLOT, streams(one, jobs=100))
    both = specs(ONE_SLOT, streams(one, "rate_per_s: 50, tenants: {flood: 1}", jobs=2_000))
    steady = [line for line in both if "steady" in line]
    assert steady[:100] == alone


def test_a_burst_brings_as_many_times_as_much() -> None:
    load = streams("rate_per_s: 50, burst: {every_s: 10, lasts_s: 1, times: 10}", jobs=20_000)
    read = make_scenario().fleet
    moments = [one.at_ms for one in arrivals(read_load(load), tuple(read.models), 3)]
    within = sum(at_ms % 10_000 < 1_000 for at_ms in moments)
    outside = len(moments) - within
    assert within / (outside / 9) == pytest.approx(10, rel=0.05)


def test_shares_and_means_are_kept_to() -> None:
    load = read_load(
        streams(
            "rate_per_s: 99, tenants: {a: 3, b: 1}, answer_tokens: {mean: 100, most: 100000}",
            jobs=20_000,
        )
    )
    jobs = list(arrivals(load, tuple(make_scenario().fleet.models), 1))
    of_a = sum(one.spec.tenant_id == "a" for one in jobs)
    assert of_a / len(jobs) == pytest.approx(0.75, abs=0.02)
    assert sum(one.answer_tokens for one in jobs) / len(jobs) == pytest.approx(100, rel=0.03)
    assert len(jobs) * 1_000 / jobs[-1].at_ms == pytest.approx(99, rel=0.03)
    assert all(
        one.answer_tokens <= one.spec.max_tokens < 2 * one.answer_tokens or one.answer_tokens == 1
        for one in jobs
    )
