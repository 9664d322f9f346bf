"""A simulation is as good as what it finds: each planted bug is found within a thousand seeds."""

import sys

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.run import run_seed
from tests.simulation.seeds import commit

SEEDS_MAX = 1_000


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_found(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(SEEDS_MAX):
        run = run_seed(seed, MUTANTS[name]())
        if run.broken:
            break
    else:
        pytest.fail(f"{name}: not found in {SEEDS_MAX} seeds")
    with capsys.disabled():
        sys.stderr.write(f"\nsimulation at {commit()}: {name}: seed {seed}: {run.broken}\n")
    assert not run_seed(seed).broken, "the seed breaks without the planted bug, too"
