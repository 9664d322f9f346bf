"""A firewall drops what goes between a worker and its queen: its job goes on elsewhere, and nothing is told twice."""

import json
from collections.abc import Callable

import pytest
from beeyard_core import limits

from tests.e2e.faults.dropped_packets import TOKENS, TTL_MS
from tests.support.firewall import run_behind_firewall
from tests.support.soak import figure_of

NOTICED_S_MAX = 10.0
#: What a machine that is busy with other tests may add.
LOAD_MS = 3_000
PATIENCE_S = 150.0


@pytest.mark.slow
@pytest.mark.timeout(200)
async def test_a_worker_whose_packets_are_dropped_loses_its_lease_and_no_token_is_lost(
    record_property: Callable[[str, object], None],
) -> None:
    told = await run_behind_firewall("tests.e2e.faults.dropped_packets", PATIENCE_S)
    found = json.loads(told.splitlines()[-1])
    figure_of(record_property, "packets dropped by a firewall", n=1, ttl_ms=TTL_MS, **found)
    assert found["faults"] == []
    assert (found["finished"], found["tokens"]) == (True, TOKENS)
    assert found["workers"] == ["far", "near"]
    assert found["next_attempt_ms"] <= TTL_MS + limits.TICK_INTERVAL_MS + LOAD_MS
    # What it heard last may have come by a heartbeat later than what was heard of it.
    heartbeat_ms = TTL_MS / limits.HEARTBEATS_PER_TTL
    assert found["decoded_on_ms"] <= heartbeat_ms + LOAD_MS
    assert found["stopped_by_its_clock"]
    assert found["noticed_s"] <= NOTICED_S_MAX + LOAD_MS / 1_000
    # The controls: the firewall bites, and what it drops for less than a lease lives costs no attempt.
    assert found["packets_dropped"] > 0
    assert found["packets_dropped_shortly"] > 0
    assert found["attempts_after_a_moment"] == 1
