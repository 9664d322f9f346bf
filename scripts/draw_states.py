"""Draws docs/job-states.md from the state tables of the code.

The tables are the truth and the drawing is a copy, so the copy is made and never edited: a style test runs this with
`--check` and fails when the page is stale.

Usage: python scripts/draw_states.py [--check]
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeVar

from beeyard_core import job, lease, work
from beeyard_worker import slots

PAGE = Path(__file__).resolve().parent.parent / "docs" / "job-states.md"

StateT = TypeVar("StateT", bound=Enum)
VerbT = TypeVar("VerbT", bound=Enum)
Moves = Mapping[str, Mapping[str, str]]

HEAD = """# The states of a job, a lease, a slot and heavy work

<!-- Drawn by scripts/draw_states.py from the tables named below. Do not edit: `python scripts/draw_states.py`. -->

What is not drawn cannot happen: an illegal move raises in the core and changes nothing.
"""


@dataclass(frozen=True)
class Machine:
    """One state machine to draw.

    Attributes:
        title: What moves.
        source: The file that holds its table, from the root of the repository.
        why: One or two sentences that a reader needs before the picture.
        moves: State -> verb -> state, by name; the first state is where everything begins.
    """

    title: str
    source: str
    why: str
    moves: Moves


def machines() -> tuple[Machine, ...]:
    """Return every machine of the page, in the order in which a job meets them."""
    return (
        Machine(
            "Job",
            "services/core/beeyard_core/job.py",
            "What a client asked. REQUEUE leads back from RUNNING, since token indexes go on over attempts.",
            names_of(job.TRANSITIONS),
        ),
        Machine(
            "Lease",
            "services/core/beeyard_core/lease.py",
            "A worker's claim to one attempt of a job. A revoked lease still occupies its slot until the worker has "
            "given it back or has been silent for the lease's time to live.",
            names_of(lease.TRANSITIONS),
        ),
        Machine(
            "Slot",
            "services/worker/beeyard_worker/slots.py",
            "A place on a worker in which one generation runs. A worker whose slots are taken refuses "
            "with WORKER_BUSY; it never queues.",
            names_of(slots.TRANSITIONS),
        ),
        Machine(
            "Heavy work",
            "services/core/beeyard_core/work.py",
            "What is costly and not inference, run by anybody's process under a lease. It may be completed from "
            "LEASED, since short work is done before its first heartbeat.",
            names_of(work.TRANSITIONS),
        ),
    )


def names_of(table: Mapping[StateT, Mapping[VerbT, StateT]]) -> Moves:
    """Return a table with the names of its states and verbs."""
    return {
        state.name: {verb.name: to.name for verb, to in moves.items()}
        for state, moves in table.items()
    }


def draw(machine: Machine) -> str:
    """Return the section of one machine: a diagram and the same as a table."""
    source, moves = machine.source, machine.moves
    arrows = [(state, verb, to) for state, out in moves.items() for verb, to in out.items()]
    final = [state for state, out in moves.items() if not out]
    lines = [f"## {machine.title}", "", f"From [`{source}`](../{source}). {machine.why}", ""]
    lines += ["```mermaid", "stateDiagram-v2", f"    [*] --> {next(iter(moves))}"]
    lines += [f"    {state} --> {to}: {verb}" for state, verb, to in arrows]
    lines += [f"    {state} --> [*]" for state in final]
    lines += ["```", "", "| from | verb | to |", "|---|---|---|"]
    lines += [f"| {state} | {verb} | {to} |" for state, verb, to in arrows]
    lines += ["", f"Final: {', '.join(final)}.", ""]
    return "\n".join(lines)


def page() -> str:
    """Return the whole page."""
    return "\n".join([HEAD, *(draw(machine) for machine in machines())])


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` tell whether it is what the tables give."""
    text = page()
    if arguments == ["--check"]:
        if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        print(f"draw-states: docs/{PAGE.name} is stale: run 'python scripts/draw_states.py'")
        return 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
