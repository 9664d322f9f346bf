"""What holds for every test: Ctrl-C reaches the processes that tests start, and figures that tests found are printed
behind everything else (`tests/support/soak.py`).
"""

import signal

import pytest

from tests.support.soak import FIGURE


def pytest_configure() -> None:
    """Hear SIGINT also where a shell that runs the tests in its background ignores it, which children would inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
