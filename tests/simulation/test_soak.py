"""Many more seeds, in `make soak`."""

import os

import pytest

from tests.simulation.seeds import check, soak_chunks

IS_SOAK = os.environ.get("BEEYARD_SOAK") == "1"


@pytest.mark.soak
@pytest.mark.skipif(not IS_SOAK, reason="runs in `make soak`")
@pytest.mark.parametrize("seeds", soak_chunks() if IS_SOAK else [range(0)], ids=str)
def test_no_seed_breaks_a_promise(seeds: range, capsys: pytest.CaptureFixture[str]) -> None:
    check(seeds, capsys)
