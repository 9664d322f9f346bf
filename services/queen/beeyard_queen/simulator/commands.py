"""`policy simulate` and `policy diff`: policies tried on a fleet and a load, without a queen, in virtual time."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from beeyard_core import limits
from beeyard_runtime.faults import StartFailed
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.host_process import HostGone
from beeyard_queen.simulator.differences import difference
from beeyard_queen.simulator.plot import check_plot, draw
from beeyard_queen.simulator.policies import PLATFORM, Chosen, choose
from beeyard_queen.simulator.scenario import Progress as Told
from beeyard_queen.simulator.scenario import Result, Scenario, make_scenario
from beeyard_queen.simulator.scenario import simulate as run
from beeyard_queen.simulator.shapes import ScenarioInvalid
from beeyard_queen.simulator.tables import as_json, show_differences, show_report

_EXIT_OK, _EXIT_INVALID, _EXIT_USAGE = 0, 1, 2
#: Wide enough that nothing is cut when a table goes into a file or another program.
_PIPED_WIDTH = 200
_POLICY = "platform, fifo, least-loaded, a template's name, or a file: Lua, or YAML if so named"


def simulate(argv: list[str]) -> int:
    """Run `policy simulate`.

    Args:
        argv: What follows `simulate` on the command line.

    Returns:
        The exit code: 0 simulated, 1 the policy does not load, 2 a file or an option is wrong.
    """
    parser = _parser("simulate", "Try a policy on a simulated fleet and load, in virtual time.")
    parser.add_argument("policy", metavar="POLICY", nargs="?", default=PLATFORM, help=_POLICY)
    _add_options(parser)
    options = parser.parse_args(argv)
    return _run(options, [options.policy])


def diff(argv: list[str]) -> int:
    """Run `policy diff`.

    Args:
        argv: What follows `diff` on the command line.

    Returns:
        The exit code: 0 simulated, 1 a policy does not load, 2 a file or an option is wrong.
    """
    parser = _parser("diff", "Try policies on one load and say where and for whom they differ.")
    parser.add_argument("policies", metavar="POLICY", nargs="+", help=_POLICY)
    _add_options(parser)
    options = parser.parse_args(argv)
    if not 2 <= len(options.policies) <= limits.SIMULATIONS_COMPARED_MAX:
        parser.error(f"2 to {limits.SIMULATIONS_COMPARED_MAX} policies are compared")
    return _run(options, options.policies)


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"beeyard policy {name}",
        description=description,
        epilog="Exit code 0: simulated; 1: a policy does not load; 2: it could not be tried.",
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--fleet", metavar="FLEET.yaml", help="models, hosts and workers; a small fleet by default")
    load = parser.add_mutually_exclusive_group()
    load.add_argument("--load", metavar="LOAD.yaml", help="who asks for what, and when")
    load.add_argument(
        "--trace", metavar="TRACE", help="recorded traffic: a sample's name or a file"
    )
    add("--jobs", type=_jobs, metavar="N", help="at most so many jobs")
    add("--rate", type=_rate, metavar="R", help="so many jobs a second, whatever the load says")
    add(
        "--seed",
        type=_seed,
        default=1,
        metavar="S",
        help="of everything left to chance (default: 1)",
    )
    add("--json", action="store_true", help="print one JSON object")
    add("--plot", type=Path, metavar="FILE", help="draw a picture, .png or .svg")


def _jobs(text: str) -> int:
    jobs = int(text)
    if not 1 <= jobs <= limits.SIMULATED_JOBS_MAX:
        raise argparse.ArgumentTypeError(f"1 to {limits.SIMULATED_JOBS_MAX}")
    return jobs


def _rate(text: str) -> float:
    rate = float(text)
    if not 0 < rate <= limits.SIMULATED_RATE_MAX:
        raise argparse.ArgumentTypeError(f"above 0, up to {limits.SIMULATED_RATE_MAX}")
    return rate


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed <= limits.SEED_MAX:
        raise argparse.ArgumentTypeError(f"0 to {limits.SEED_MAX}")
    return seed


def _run(options: argparse.Namespace, names: list[str]) -> int:
    try:
        if options.plot is not None:
            check_plot(options.plot)
        scenario = make_scenario(
            fleet=options.fleet, load=options.load, trace=options.trace,
            jobs=options.jobs, rate_per_s=options.rate, seed=options.seed,
        )  # fmt: skip
        results = []
        for name in names:
            try:
                results.append(_simulated(scenario, choose(name)))
            except PolicyInvalid as fault:
                sys.stderr.write(f"{name}:{fault.line or 1}: {fault.message}\n")
                return _EXIT_INVALID
        _show(scenario, results, as_one_json=options.json)
        if options.plot is not None:
            draw(options.plot, results)
    except (ScenarioInvalid, StartFailed, HostGone) as fault:
        sys.stderr.write(f"beeyard policy: {fault}\n")
        return _EXIT_USAGE
    return _EXIT_OK


def _simulated(scenario: Scenario, chosen: Chosen) -> Result:
    with _bar(chosen.name) as progress:
        return run(scenario, chosen, progress)


@contextmanager
def _bar(name: str) -> Iterator[Told | None]:
    """Show a progress bar on stderr for the time of the block, if somebody looks at it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(name)

        def show(ended: int, total: int, _virtual_ms: int) -> None:
            bar.update(task, completed=ended, total=total)

        yield show


def _show(scenario: Scenario, results: list[Result], *, as_one_json: bool) -> None:
    found = [difference(results[0], other) for other in results[1:]]
    if as_one_json:
        sys.stdout.write(as_json(scenario, results, found))
        return
    console = Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, highlight=False)
    if found:
        show_differences(console, scenario, results, found)
    else:
        show_report(console, scenario, results[0])
