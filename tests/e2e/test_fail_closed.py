"""The driver of a real host breaks while jobs come: none starts there until it is well, and then they all do."""

import json
from pathlib import Path

from beeyard.queen.v1 import fleet_service_pb2 as fleet_pb
from beeyard_client import BeeyardClient

from tests.support.stack import Stack

DEVICE = {"uuid": "cpu", "kind": "cpu", "vram_total_bytes": 8 << 30}
#: Snapshots of the host that a job must sit out.
SNAPSHOTS = 3


def write(inventory: Path, fault: str) -> None:
    """Change what the host finds; whole, as no reader may see half of it."""
    fresh = inventory.with_suffix(".new")
    fresh.write_text(json.dumps({"devices": [DEVICE], "fault": fault}))
    fresh.replace(inventory)


def is_faulty(fleet: fleet_pb.FleetSnapshot) -> bool:
    return any(pool.snapshot.inventory_fault for pool in fleet.pools)


async def test_no_job_starts_while_the_inventory_of_its_host_is_faulty(tmp_path: Path) -> None:
    inventory = tmp_path / "inventory.json"
    write(inventory, "")
    flags = ("--inventory", str(inventory))
    async with (
        Stack(pool_manager_flags=flags) as stack,
        BeeyardClient(stack.queen_address) as client,
    ):
        write(inventory, "NVML: the driver is not loaded")
        await stack.wait_for(is_faulty, "the host reports the fault")
        job = await client.submit("The bee", model="tiny", max_tokens=3)
        reports: set[int] = set()

        def has_reported(fleet: fleet_pb.FleetSnapshot) -> bool:
            assert is_faulty(fleet)
            reports.update(pool.report_time.ToNanoseconds() for pool in fleet.pools)
            return len(reports) > SNAPSHOTS

        await stack.wait_for(has_reported, "the host reports some more")
        assert (await client.get(job.job_id)).state.name == "QUEUED"
        write(inventory, "")
        events = [event async for event in client.watch(job.job_id)]
        assert type(events[-1]).__name__ == "Finished"
