"""A fleet, a load and a seed, and what becomes of a policy in them: the whole of a simulation in one call."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Final

from beeyard_core import limits

from beeyard_queen.simulator.arrivals import arrivals
from beeyard_queen.simulator.fleet import SimulatedFleet, read_fleet
from beeyard_queen.simulator.ledger import Ledger
from beeyard_queen.simulator.load import Load, Source, load_of_trace, read_load
from beeyard_queen.simulator.policies import Chosen, asking
from beeyard_queen.simulator.report import Measured, Report, measured, report_of, waits
from beeyard_queen.simulator.shapes import read_file
from beeyard_queen.simulator.simulation import Simulation
from beeyard_queen.simulator.tally import Tally

#: Told with jobs ended, jobs in all if they are known by then, and virtual milliseconds.
Progress = Callable[[int, int, int], None]
_BUILT_IN: Final = "built in"


@dataclass(frozen=True, slots=True)
class Scenario:
    """What policies are tried on.

    Attributes:
        names: What fleet and load are called in a report.
    """

    fleet: SimulatedFleet
    load: Load
    seed: int
    names: tuple[str, str] = (_BUILT_IN, _BUILT_IN)


@dataclass(frozen=True, slots=True)
class Result:
    """What a simulation gives back.

    Attributes:
        report: What follows from the request alone.
        measured: What this machine took.
        ledger: What became of each job.
        waits: How long each waited, in milliseconds; negative for those that were refused.
    """

    report: Report
    measured: Measured
    ledger: Ledger
    waits: list[int]


def simulate(scenario: Scenario, chosen: Chosen, progress: Progress | None = None) -> Result:
    """Run a policy in a scenario. Not within a running event loop.

    Raises:
        PolicyInvalid: The policy does not load.
        StartFailed: The sandbox does not work on this machine.
    """
    tally = Tally()
    began, began_cpu = time.perf_counter(), time.process_time()
    with asking(chosen, tally) as place:
        simulation = Simulation(scenario.fleet, place)
        coming = arrivals(scenario.load, tuple(scenario.fleet.models), scenario.seed)
        total = scenario.load.jobs_at_most
        simulation.run(
            coming,
            progress and (lambda ended, virtual_ms: progress(ended, total, virtual_ms)),
        )
        report = report_of(simulation, tally, policy=chosen.name, seed=scenario.seed)
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    return Result(
        report,
        measured(len(simulation.ledger), wall_s, cpu_s, tally),
        simulation.ledger,
        waits(simulation),
    )


def make_scenario(
    *,
    fleet: str | None = None,
    load: str | None = None,
    trace: str | None = None,
    jobs: int | None = None,
    rate_per_s: float | None = None,
    seed: int = 1,
) -> Scenario:
    """Return the scenario of a command line; what is not given is built in.

    Args:
        fleet: A file.
        load: A file.
        trace: A trace's name or file, instead of a load; or in the place of the built-in load's arrivals.
        jobs: At most so many, instead of what the load says.
        rate_per_s: So many jobs a second over all streams, instead of what the load says.
        seed: Of every draw.

    Raises:
        ScenarioInvalid: A file is wrong.
    """
    of_load = load_of_trace(trace) if trace is not None else read_load(*_text(load, "load.yaml"))
    if rate_per_s is not None:
        of_load = _at_rate(of_load, rate_per_s)
    if jobs is not None:
        of_load = replace(of_load, jobs=jobs)
    return Scenario(
        read_fleet(*_text(fleet, "fleet.yaml")),
        of_load,
        seed,
        (fleet or _BUILT_IN, trace or load or _BUILT_IN),
    )


def _text(name: str | None, sample: str) -> tuple[bytes, str]:
    if name is None:
        return (files("beeyard_queen.simulator") / "samples" / sample).read_bytes(), ""
    # One byte more than may be: the reader says how much that is.
    return read_file(Path(name), limits.POLICY_SOURCE_BYTES_MAX), name


def _at_rate(load: Load, rate_per_s: float) -> Load:
    """Return a load that comes faster or slower: streams at a rate by their parts of it, traces by their speed."""
    before = sum(source.rate_per_s for source in load.sources)
    factor = rate_per_s / before
    sources = []
    for source in load.sources:
        stream = source.stream
        faster = (
            stream.model_copy(update={"rate_per_s": stream.rate_per_s * factor})
            if stream.rate_per_s is not None
            else stream.model_copy(update={"speed": stream.speed * factor})
        )
        sources.append(Source(faster, source.requests))
    return replace(load, sources=tuple(sources))
