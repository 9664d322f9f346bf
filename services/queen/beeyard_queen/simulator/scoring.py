"""`beeyard forecast score`: the core's own forecast, held against jobs that it has not learnt from.

A fleet and a load are simulated with the platform policy. During the first half of the jobs the forecast learns; from
then on it is only asked. So what is scored is the second half, which no measurement has seen. `--online` lets it go on
learning, as a queen does: each prediction is still made before its outcome is known.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Final

from beeyard_core.calibration import Calibration, Score
from beeyard_core.history import job_record_of
from beeyard_core.job import Job, Priority
from beeyard_core.prediction import COVERAGE, LEVELS
from beeyard_runtime.faults import StartFailed
from beeyard_runtime.log import setup_log
from rich.console import Console
from rich.table import Table

from beeyard_queen.simulator.arrivals import Arrival, arrivals
from beeyard_queen.simulator.policies import PLATFORM, asking, choose
from beeyard_queen.simulator.scenario import Scenario, make_scenario
from beeyard_queen.simulator.shapes import ScenarioInvalid
from beeyard_queen.simulator.simulation import Simulation
from beeyard_queen.simulator.tally import Tally

_EXIT_OK, _EXIT_USAGE = 0, 2
_RATE_DEFAULT: Final = 16.0
_PIPED_WIDTH: Final = 160


@dataclass(slots=True)
class Scored:
    """The second half of a simulation's jobs, all of them and by class."""

    everything: Calibration
    classes: dict[str, Calibration]


def score(scenario: Scenario, *, is_online: bool = False) -> Scored:
    """Simulate, learn from the first half of the jobs, and score the predictions of the second.

    Args:
        scenario: What is simulated, with the platform policy.
        is_online: The forecast goes on learning from the second half.
    """
    found = Scored(Calibration(), {each.name.lower(): Calibration() for each in Priority})
    half = scenario.load.jobs_at_most // 2
    with asking(choose(PLATFORM), Tally()) as place:
        simulation = Simulation(scenario.fleet, place)

        def coming() -> Iterator[Arrival]:
            models = tuple(scenario.fleet.models)
            for number, arrival in enumerate(arrivals(scenario.load, models, scenario.seed)):
                simulation.state.forecast.is_learning = is_online or number < half
                yield arrival

        def ended(job: Job) -> None:
            if job.sequence > half:
                record = job_record_of(job, simulation.state.fleet)
                found.everything.add(record)
                found.classes[job.spec.priority.name.lower()].add(record)

        simulation.on_ended = ended
        simulation.run(coming())
    return found


def default_scenario(
    *,
    fleet: str | None = None,
    load: str | None = None,
    trace: str | None = None,
    jobs: int | None = None,
    rate_per_s: float | None = None,
    seed: int = 1,
) -> Scenario:
    """Return a scenario; what is not given is the recorded conversations on a fleet that serves them.

    Raises:
        ScenarioInvalid: A file is wrong.
    """
    samples = files("beeyard_queen.simulator") / "samples"
    own_load = load is None and trace is None
    scenario = make_scenario(
        fleet=fleet or str(samples / "steady_fleet.yaml"),
        load=str(samples / "mixed_azure.yaml") if own_load else load,
        trace=trace,
        jobs=jobs,
        rate_per_s=rate_per_s or (_RATE_DEFAULT if own_load else None),
        seed=seed,
    )
    names = (fleet or "steady_fleet.yaml", trace or load or "mixed_azure.yaml")
    return replace(scenario, names=names)


def main(argv: list[str]) -> int:
    """Run the command; return the exit code: 0 scored, 2 a file or an option is wrong."""
    setup_log("forecast", fmt="console", level="error")
    options = _parser().parse_args(argv)
    try:
        scenario = default_scenario(
            fleet=options.fleet, load=options.load, trace=options.trace,
            jobs=options.jobs, rate_per_s=options.rate, seed=options.seed,
        )  # fmt: skip
        scored = score(scenario, is_online=options.online)
    except (ScenarioInvalid, StartFailed) as fault:
        sys.stderr.write(f"beeyard forecast: {fault}\n")
        return _EXIT_USAGE
    if options.json:
        sys.stdout.write(json.dumps(_as_json(scenario, scored), indent=2) + "\n")
    else:
        _show(scenario, scored)
    return _EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="beeyard forecast score",
        description="Let the forecast learn from the first half of simulated jobs, and score the second.",
    )
    add = parser.add_argument
    add(
        "--fleet", metavar="FLEET.yaml", help="models, hosts and workers; a steady fleet by default"
    )
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--load", metavar="LOAD.yaml", help="who asks for what, and when")
    load.add_argument("--trace", metavar="TRACE", help="recorded traffic: a sample or a file")
    add("--jobs", type=int, metavar="N", help="at most so many jobs")
    add("--rate", type=float, metavar="R", help="so many jobs a second; 16 of the built-in load")
    add(
        "--seed", type=int, default=1, metavar="S", help="of everything left to chance (default: 1)"
    )
    add("--online", action="store_true", help="go on learning in the second half")
    add("--json", action="store_true", help="print one JSON object")
    return parser


def _rows(scored: Scored) -> Iterator[tuple[str, Score]]:
    yield "end", scored.everything.end
    yield "end, had to wait", scored.everything.waited_end
    yield "start, had to wait", scored.everything.start
    for name, calibration in scored.classes.items():
        if calibration.end.n:
            yield f"end, {name}", calibration.end


def _figures(score: Score) -> dict[str, object]:
    return {
        "n": score.n,
        "coverage": score.coverage,
        "shares": score.shares(),
        "width_p50_ms": round(score.width.quantile(0.5)),
        "error_p50_ms": round(score.error.quantile(0.5)),
        "error_p95_ms": round(score.error.quantile(0.95)),
    }


def _as_json(scenario: Scenario, scored: Scored) -> dict[str, object]:
    return {
        "fleet": scenario.names[0],
        "load": scenario.names[1],
        "seed": scenario.seed,
        "levels": LEVELS,
        "promised_coverage": round(COVERAGE, 6),
        "scores": {name: _figures(score) for name, score in _rows(scored)},
        "unpredicted": scored.everything.unpredicted,
    }


def _show(scenario: Scenario, scored: Scored) -> None:
    title = f"{scenario.names[1]} on {scenario.names[0]}, seed {scenario.seed}"
    table = Table(title=title, title_justify="left")
    levels = [f"by {level:.0%}" for level in LEVELS]
    columns = ("predicted", "jobs", f"inside (of {COVERAGE:.0%})", *levels)
    for column in (*columns, "width p50", "off p50", "off p95"):
        table.add_column(column, justify="left" if column == "predicted" else "right")
    for name, each in _rows(scored):
        table.add_row(name, *_shown(each))
    console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False)
    console.print(table)
    console.print(f"{scored.everything.unpredicted} jobs completed without a prediction")


def _shown(score: Score) -> list[str]:
    inside = "-" if score.coverage is None else f"{score.coverage:.1%}"
    spans = (score.width.quantile(0.5), score.error.quantile(0.5), score.error.quantile(0.95))
    return [
        *(str(score.n), inside),
        *([f"{share:.1%}" for share in score.shares()] or ["-"] * len(LEVELS)),
        *(f"{ms / 1000:.2f} s" for ms in spans),
    ]
