"""`/v2/stats` and `/v2/forecast`: what became of jobs, over HTTP."""

import pytest

from tests.support.running_gateway import RunningGateway


async def test_what_became_of_jobs_is_told_by_what_is_asked(gateway: RunningGateway) -> None:
    answer = await gateway.client.get("/v2/stats", params={"by": "model", "since_ms": "1"})
    assert answer.status_code == 200
    told = answer.json()
    assert told["everything"]["jobs"] == 0
    assert (told["groups"], told["is_truncated"]) == ([], False)
    assert "success_rate" not in told["everything"]


async def test_the_forecast_is_held_against_what_came(gateway: RunningGateway) -> None:
    told = (await gateway.client.get("/v2/forecast", params={"tenant_id": "ann"})).json()
    assert told["promised_coverage"] == 0.9
    assert told["levels"] == [0.05, 0.25, 0.5, 0.75, 0.95]
    assert told["end"]["n"] == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [("by", "colour"), ("since_ms", "-1"), ("until_ms", "1e9"), ("until_ms", "9" * 15)],
)
async def test_what_makes_no_sense_is_refused_with_its_name(
    gateway: RunningGateway, name: str, value: str
) -> None:
    answer = await gateway.client.get("/v2/stats", params={name: value})
    assert answer.status_code == 400
    assert name in answer.text
