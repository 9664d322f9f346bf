"""A picture of one simulation, or of several on one load: queue and slots over time, waits and first tokens.

Drawn by matplotlib, which is an optional part (`beeyard[plot]`): whoever never asks for a picture need not have it.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from beeyard_core.policy.world import CLASSES

from beeyard_queen.simulator.ledger import NEVER, Ledger
from beeyard_queen.simulator.scenario import Result
from beeyard_queen.simulator.shapes import ScenarioInvalid

_SUFFIXES: Final = (".png", ".svg")
_COLOURS: Final = (
    "#c0392b",
    "#2471a3",
    "#b7950b",
    "#7f8c8d",
    "#1e8449",
    "#6c3483",
    "#ca6f1e",
    "#17202a",
)


def check_plot(path: Path) -> None:
    """Find out before a long run whether a picture can be drawn.

    Raises:
        ScenarioInvalid: The format is unknown, or matplotlib is not installed.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ScenarioInvalid("a picture is a .png or .svg file", str(path))
    if not path.parent.is_dir():
        raise ScenarioInvalid("there is no such folder", str(path.parent))
    if find_spec("matplotlib") is None:
        raise ScenarioInvalid("a picture needs matplotlib; install beeyard[plot]", str(path))


def draw(path: Path, results: list[Result]) -> None:
    """Write a picture of results.

    Raises:
        ScenarioInvalid: The file cannot be written.
    """
    # Loaded here: it takes a second, and most simulations draw nothing.
    from matplotlib import rc_context  # noqa: PLC0415  see above
    from matplotlib.figure import Figure  # noqa: PLC0415  see above

    # The same results give the same file: no date, and ids of an SVG that are not drawn by chance.
    with rc_context({"svg.hashsalt": "beeyard", "font.size": 9}):
        figure = Figure(figsize=(11, 7), layout="constrained")
        axes = figure.subplots(2, 2)
        if len(results) == 1:
            _alone(axes, results[0])
        else:
            _together(axes, results)
        figure.suptitle(" / ".join(result.report.policy for result in results))
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
        try:
            figure.savefig(path, metadata=metadata, dpi=120)
        except OSError as fault:
            raise ScenarioInvalid(fault.strerror or "cannot be written", str(path)) from None


def _alone(axes: Any, result: Result) -> None:
    samples = result.ledger.samples
    at_s = [sample.at_ms / 1_000 for sample in samples]
    waiting = [[sample.waiting[rank] for sample in samples] for rank in range(len(CLASSES))]
    axes[0, 0].stackplot(at_s, waiting, labels=CLASSES, colors=_COLOURS)
    _label(axes[0, 0], "jobs in the queue", "s")
    axes[1, 0].plot(at_s, [sample.slots for sample in samples], color="#7f8c8d", label="slots")
    axes[1, 0].fill_between(
        at_s, [sample.busy for sample in samples], color="#2471a3", label="busy"
    )
    _label(axes[1, 0], "slots", "s")
    for rank, name in enumerate(CLASSES):
        jobs = result.ledger.numbers(result.ledger.class_of, rank + 1)
        if jobs:
            colour = _COLOURS[rank]
            _distribution(axes[0, 1], [result.waits[job] for job in jobs], name, colour)
            firsts = [result.ledger.first_token_ms[job] for job in jobs]
            _distribution(axes[1, 1], firsts, name, colour)
    _label_distributions(axes)


def _together(axes: Any, results: list[Result]) -> None:
    for result, colour in zip(results, _COLOURS, strict=False):
        name, ledger = result.report.policy, result.ledger
        at_s = [sample.at_ms / 1_000 for sample in ledger.samples]
        depth = [sum(sample.waiting) for sample in ledger.samples]
        axes[0, 0].plot(at_s, depth, color=colour, label=name)
        axes[1, 0].plot(*_waits_over_time(ledger, result.waits), color=colour, label=name)
        _distribution(axes[0, 1], result.waits, name, colour)
        _distribution(axes[1, 1], list(ledger.first_token_ms), name, colour)
    _label(axes[0, 0], "jobs in the queue", "s")
    _label(axes[1, 0], "mean wait of the jobs that came then, s", "s")
    _label_distributions(axes)


def _waits_over_time(ledger: Ledger, waits: list[int]) -> tuple[list[float], list[float]]:
    """Mean waits by time of arrival, in a hundred steps."""
    span_ms = max(ledger.at_ms[-1] + 1, 1) if len(ledger) else 1
    steps: list[list[int]] = [[] for _ in range(100)]
    for at_ms, wait_ms in zip(ledger.at_ms, waits, strict=True):
        if wait_ms >= 0:
            steps[at_ms * 100 // span_ms].append(wait_ms)
    known = [(number, step) for number, step in enumerate(steps) if step]
    return (
        [number * span_ms / 100_000 for number, _ in known],
        [sum(step) / len(step) / 1_000 for _, step in known],
    )


def _distribution(axis: Any, values: list[int], name: str, colour: str) -> None:
    known = sorted(value / 1_000 for value in values if value != NEVER)
    if known:
        axis.step(
            known,
            [(n + 1) / len(known) for n in range(len(known))],
            where="post",
            color=colour,
            label=name,
        )


def _label_distributions(axes: Any) -> None:
    _label(axes[0, 1], "share of jobs that waited no longer", "s")
    _label(axes[1, 1], "share of jobs whose first token came by then", "s")
    for axis in axes[:, 1]:
        # Waits span from nothing to minutes: linear up to a tenth of a second, logarithmic beyond.
        axis.set_xscale("symlog", linthresh=0.1)


def _label(axis: Any, title: str, unit: str) -> None:
    axis.set_title(title)
    axis.set_xlabel(unit)
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend()
