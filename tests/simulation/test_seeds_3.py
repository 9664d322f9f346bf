"""Every promise over many seeds: part 3 of 4, a file of its own so that test processes share the work."""

import pytest

from tests.simulation.seeds import check, chunks_of


@pytest.mark.slow
@pytest.mark.parametrize("seeds", chunks_of(2), ids=str)
def test_no_seed_breaks_a_promise(seeds: range, capsys: pytest.CaptureFixture[str]) -> None:
    check(seeds, capsys)
