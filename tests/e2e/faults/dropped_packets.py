"""The story of a worker behind a firewall that drops its packets; `test_dropped_packets.py` has it told.

Prints what it found, as JSON. Runs in a network of its own (`tests/support/firewall.py`), so it is a program.
"""

import asyncio
import json

from beeyard_client import BeeyardClient
from beeyard_client.events import Finished

from tests.support.eventually import eventually
from tests.support.expected_answer import Asked
from tests.support.firewall import DOOR_PORT, Firewall
from tests.support.followed import PATIENCE_S, Followed, until_all
from tests.support.lone_fleet import LoneFleet

TTL_MS = 2_000
RATE = 60
#: Some seconds of answer, and some of it behind the firewall.
TOKENS = 600


async def story(fleet: LoneFleet, client: BeeyardClient) -> dict[str, object]:
    """Cut a worker off for less than its leases live, and then for longer; return what was found."""
    now = asyncio.get_running_loop().time
    firewall = Firewall(int(fleet.queen.address.rpartition(":")[2]))
    await fleet.start_workers(["far"], slots=1, rate=RATE, queen=f"127.0.0.1:{DOOR_PORT}")
    job = Followed(client, Asked("r", "bee", TOKENS, seed=1))
    await until_all([job], lambda job: job.tokens > 10, "it runs")

    # The control: what is dropped for a moment is sent again, and the worker keeps its lease.
    had, firewall_began = job.tokens, now()
    firewall.drop()
    await eventually(lambda: now() - firewall_began > TTL_MS / 4_000, "time passes", PATIENCE_S)
    dropped_shortly = firewall.heal()
    await until_all([job], lambda job: job.tokens > had + RATE, "it goes on")
    attempts_after_a_moment = len(job.started)

    await fleet.start_workers(["near"], slots=1, rate=RATE)
    cut_at = now()
    firewall.drop()
    await until_all(
        [job], lambda job: len(job.started) > attempts_after_a_moment, "it is elsewhere"
    )
    elsewhere_at = now()
    while await fleet.is_decoding("far"):
        assert now() - elsewhere_at < PATIENCE_S, "far goes on decoding"
    decoded_on_ms = round(1_000 * (now() - elsewhere_at))
    far_log = fleet.folder / "far.log"
    stopped_by_its_clock = "leases_expired" in far_log.read_text()
    await eventually(
        lambda: "stream_broke" in far_log.read_text(), "the worker notices", PATIENCE_S
    )
    noticed_s = now() - cut_at
    dropped = firewall.heal()
    await fleet.until_attached(["far", "near"])
    await job.task
    return {
        "packets_dropped_shortly": dropped_shortly,
        "attempts_after_a_moment": attempts_after_a_moment,
        "packets_dropped": dropped,
        "workers": [started.worker_id for started in job.started],
        "next_attempt_ms": round(1_000 * (job.started_at[-1] - cut_at)),
        "decoded_on_ms": decoded_on_ms,
        "stopped_by_its_clock": stopped_by_its_clock,
        "noticed_s": round(noticed_s, 1),
        "tokens": job.tokens,
        "finished": isinstance(job.ending, Finished),
        "faults": job.book.faults,
    }


async def main() -> None:
    """Tell the story."""
    async with (
        LoneFleet("--lease-ttl-ms", str(TTL_MS)) as fleet,
        BeeyardClient(fleet.queen.address) as client,
    ):
        found = await story(fleet, client)
    print(json.dumps(found))  # noqa: T201 - this is how it is told


if __name__ == "__main__":
    asyncio.run(main())
