"""`make bench`: measures, prints a table, writes benchmarks/out/latest.json."""

import argparse
from collections.abc import Awaitable, Callable

import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks import (
    decision,
    demo,
    first_token,
    jobs,
    policy_hosts,
    prefix_affinity,
    relay_tokens,
    restart,
    returned_worker,
    simulator,
    slow_readers,
)
from benchmarks.measure import ROUNDS, Figure, write

MEASURES: dict[str, Callable[[int], Awaitable[Figure]]] = {
    "relay_tokens": relay_tokens.measure,
    "relay_tokens_stepwise": relay_tokens.measure_stepwise,
    "accepted_jobs": jobs.measure_accepted,
    "jobs_end_to_end": jobs.measure_end_to_end,
    "ttft_added": first_token.measure,
    "ttft_added_secured": first_token.measure_secured,
    "decision_1000x10000": decision.measure_decision,
    "decision_growth": decision.measure_growth,
    "sandbox_rtt": policy_hosts.measure_rtt,
    "host_respawn": policy_hosts.measure_respawn,
    "host_memory": policy_hosts.measure_memory,
    "restart": restart.measure,
    "slow_readers": slow_readers.measure,
    "simulator": simulator.measure,
    "prefix_affinity": prefix_affinity.measure,
    "returned_worker": returned_worker.measure,
    "demo": demo.measure,
}


async def run(names: list[str], rounds: int) -> list[Figure]:
    """Measure the named figures one after the other."""
    console = Console(stderr=True)
    figures = []
    for name in names:
        with console.status(f"{name}: {rounds} rounds against the control"):
            figures.append(await MEASURES[name](rounds))
    return figures


def table_of(figures: list[Figure]) -> Table:
    """Lay the figures out for a person."""
    table = Table(title="figures against their controls")
    for heading in (
        "figure",
        "value",
        "control",
        "ratio",
        "target",
        "met",
        "spread",
        "CPU us/unit",
    ):
        table.add_column(heading)
    for figure in figures:
        sign = "<=" if figure.smaller_is_better else ">="
        cpu = " ".join(f"{role} {us:.1f}" for role, us in figure.cpu_us.items())
        table.add_row(
            figure.figure,
            f"{figure.value:,.1f} {figure.unit}",
            f"{figure.control_value:,.1f}",
            f"{figure.ratio:.2f}",
            f"{sign} {figure.target:g}",
            "yes" if figure.met else "no",
            f"{figure.spread[0]:.2f} to {figure.spread[1]:.2f}",
            cpu,
        )
    return table


def main() -> None:
    """Parse the arguments, measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("figures", nargs="*", choices=list(MEASURES), help="default: all")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="counted rounds of each side")
    arguments = parser.parse_args()
    figures = uvloop.run(run(arguments.figures or list(MEASURES), arguments.rounds))
    Console(width=160).print(table_of(figures))
    for figure in figures:
        if figure.note:
            Console(width=160).print(f"{figure.figure}: {figure.note}")
    write(figures)


if __name__ == "__main__":
    main()
