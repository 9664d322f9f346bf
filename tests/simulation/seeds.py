"""Runs ranges of seeds for the tests; of one that fails it tells a short story and the command that tells it again."""

import os
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from typing import Final

import pytest

from tests.simulation.run import Run, run_seed, run_story
from tests.simulation.shrink import shrink
from tests.simulation.story import story_of

#: Seeds of `make test`; `make soak` goes on behind them.
SEEDS: Final = int(os.environ.get("BEEYARD_SEEDS", "2000"))
SOAK_SEEDS: Final = int(os.environ.get("BEEYARD_SOAK_SEEDS", "100000"))
PARTS: Final = 4
CHUNK: Final = 100
_LINES_SHOWN: Final = 60


def chunks_of(part: int) -> list[range]:
    """Return the ranges of seeds of one of the files that share them."""
    starts = range(part * CHUNK, SEEDS, PARTS * CHUNK)
    return [range(start, min(start + CHUNK, SEEDS)) for start in starts]


def soak_chunks() -> list[range]:
    """Return the ranges of seeds of a soak."""
    starts = range(SEEDS, SEEDS + SOAK_SEEDS, CHUNK)
    return [range(start, min(start + CHUNK, SEEDS + SOAK_SEEDS)) for start in starts]


def check(seeds: range, capsys: pytest.CaptureFixture[str]) -> None:
    """Run every seed of a range; fail at the first that breaks something, else say what was done."""
    runs = []
    for seed in seeds:
        run = run_seed(seed)
        if run.broken:
            pytest.fail(explain(run), pytrace=False)
        runs.append(run)
    with capsys.disabled():
        sys.stderr.write(f"\n{summary(seeds, runs)}\n")


def summary(seeds: range, runs: Iterable[Run]) -> str:
    """Return one line: commit, seeds, and how much happened in them."""
    runs = list(runs)
    total = {
        name: sum(getattr(run, name) for run in runs)
        for name in ("accepted", "completed", "tokens", "chores", "faults", "stale_writes", "steps")
    }
    return (
        f"simulation at {commit()}: seeds {seeds.start} to {seeds.stop - 1}, N={len(runs)}, none broken; "
        + ", ".join(f"{count} {name}" for name, count in total.items())
    )


def explain(run: Run) -> str:
    """Return what broke, in the smallest story that still breaks, and how to see it again."""
    smallest = shrink(story_of(run.seed), lambda story: bool(run_story(story).broken))
    again = run_story(smallest)
    shown = again.lines[-_LINES_SHOWN:]
    return "\n".join(
        [
            f"{run.summary}",
            f"at {commit()}; with {len(smallest.faults)} of {run.faults} faults: {again.broken}",
            *shown,
            f"replay: python -m tests.simulation --seed {run.seed} --shrink --trace",
        ]
    )


@cache
def commit() -> str:
    """Return the commit that is tested; `unknown` outside of a repository."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"
