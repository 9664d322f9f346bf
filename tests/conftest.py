"""What holds for every test: Ctrl-C reaches the processes that tests start, and figures that tests found are printed
behind everything else (`tests/support/soak.py`).
"""

import signal
from pathlib import Path

import pytest

from tests.support.soak import FIGURE

TESTS = Path(__file__).parent
#: Files of stories that stop, kill and watch many processes.
HEAVY = frozenset({TESTS / "e2e" / "faults", TESTS / "docs"})


def pytest_configure() -> None:
    """Hear SIGINT also where a shell that runs the tests in its background ignores it, which children would inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the files that need most of a machine over the run.

    So that two of them seldom run side by side, and no test process is left alone with one at the end. Whoever runs
    tests in several processes must keep the order of files (`--no-loadscope-reorder`).
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    heavy = [path for path in files if path.parent in HEAVY]
    light = [path for path in files if path.parent not in HEAVY]
    between = -(-len(light) // len(heavy)) if heavy else 0
    order = light
    for number in reversed(range(len(heavy))):
        order.insert(number * between, heavy[number])
    items[:] = [item for path in order for item in files[path]]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if isinstance(report, pytest.TestReport)
    ]
    figures = [
        str(value)
        for report in reports
        for name, value in report.user_properties
        if name == FIGURE and report.when == "call"
    ]
    if figures:
        terminalreporter.section("figures")
    for figure in sorted(figures):
        terminalreporter.write_line(figure)
