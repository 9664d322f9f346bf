"""The examples of docs/simulator.md can be run as they stand there."""

import re
import shlex
from pathlib import Path

import pytest
from beeyard_core import limits
from beeyard_queen.simulator.commands import diff, simulate

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
