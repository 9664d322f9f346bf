"""The forecast, scored on recorded traffic that it has not learnt from."""

import json

import pytest
from beeyard_queen.simulator.scoring import default_scenario, main, score


@pytest.mark.parametrize("rate_per_s", [14.0, 16.0, 18.0])
def test_the_intervals_hold_nine_in_ten_of_the_half_that_was_held_out(rate_per_s: float) -> None:
    found = score(default_scenario(rate_per_s=rate_per_s)).everything
    assert found.end.n == 1_500
    assert found.end.coverage is not None
    assert 0.85 <= found.end.coverage <= 0.95
    assert abs(found.end.shares()[2] - 0.5) < 0.2


def test_without_a_correction_the_same_intervals_would_not_hold_them() -> None:
    # A control: seen before enough was scored, an interval is a guess, and a wide one.
    few = score(default_scenario(jobs=60, rate_per_s=6.0)).everything
    many = score(default_scenario(rate_per_s=6.0)).everything
    assert few.end.n > 0
    assert many.end.width.quantile(0.5) < few.end.width.quantile(0.5)


def test_the_command_tells_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--jobs", "200", "--rate", "6", "--online"]) == 0
    assert "inside (of 90%)" in capsys.readouterr().out
    assert main(["--jobs", "200", "--trace", "azure-2023-code", "--json", "--seed", "3"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["load"], told["seed"], told["promised_coverage"]) == ("azure-2023-code", 3, 0.9)
    assert told["scores"]["end"]["n"] > 0
    assert main(["--load", "nowhere.yaml"]) == 2
    assert "beeyard forecast" in capsys.readouterr().err
