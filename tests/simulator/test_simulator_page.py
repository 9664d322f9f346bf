"""The examples of docs/simulator.md can be run as they stand there."""

import re
import shlex
from pathlib import Path

import pytest
from beeyard_core import limits
from beeyard_queen.simulator.commands import diff, simulate
from beeyard_queen.simulator.contention import jain
from beeyard_queen.simulator.policies import choose
from beeyard_queen.simulator.scenario import make_scenario
from beeyard_queen.simulator.scenario import simulate as run

from tests.style import repository

PAGE = repository.text_of("docs/simulator.md")
FILES = re.findall(r"```yaml\n# ([\w.]+)\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [
    line
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_pages_commands_run(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Some name files of the documentation, others those of the page.
    (tmp_path / "docs").symlink_to(repository.ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    for name, text in FILES:
        Path(name).write_text(text, encoding="utf-8")
    program, policy, verb, *arguments = shlex.split(command)
    assert (program, policy) == ("beeyard", "policy")
    code = {"simulate": simulate, "diff": diff}[verb](arguments)
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    assert captured.out


def test_the_page_has_its_examples_and_its_bounds() -> None:
    assert [name for name, _ in FILES] == ["fleet.yaml", "load.yaml"]
    assert len(COMMANDS) >= 6
    bounds = PAGE.partition("## Bounds")[2].replace("\n", " ")
    assert limits.SIMULATED_JOBS_MAX == 1_000_000
    assert f"{limits.SIMULATED_HOSTS_MAX:,} hosts, {limits.WORKERS_MAX:,} workers" in bounds
    assert (
        f"{limits.SIMULATED_STREAMS_MAX} streams, {limits.SIMULATED_TENANTS_MAX:,} tenants"
        in bounds
    )
    assert limits.SIMULATED_MS_MAX == 7 * 24 * 3_600_000
    assert f"{limits.TRACE_FILE_BYTES_MAX >> 20} MiB" in bounds


def test_on_recorded_traffic_the_platform_policy_is_what_the_page_says() -> None:
    """Interactive work waits at most half as long as first come first served; tenants share; no deadline is lost."""
    folder = repository.ROOT / "docs" / "simulator"
    scenario = make_scenario(
        fleet=str(folder / "azure-fleet.yaml"), load=str(folder / "azure-load.yaml")
    )
    platform, fifo, least_loaded = (
        run(scenario, choose(name)).report for name in ("platform", "fifo", "least-loaded")
    )
    for baseline in (fifo, least_loaded):
        interactive = platform.classes["interactive"].wait, baseline.classes["interactive"].wait
        assert interactive[0].p99_ms <= interactive[1].p99_ms / 2
        met = platform.everything.deadlines_met, baseline.everything.deadlines_met
        assert met[0] is not None
        assert met[1] is not None
        assert met[0] >= met[1]
    assert platform.fairness >= 0.95
    equal = [platform.tenant_tokens_per_s[name] for name in ("ada", "bob", "eve")]
    assert jain(equal) >= 0.95
