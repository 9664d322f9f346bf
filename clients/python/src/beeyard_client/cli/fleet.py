"""`beeyard fleet`: what there is."""

import asyncio
from typing import Annotated, Final

import typer
from rich.console import Group
from rich.live import Live

from beeyard_client import limits
from beeyard_client.cli.printing import console, print_json, size, table
from beeyard_client.cli.session import OK, ask
from beeyard_client.client import BeeyardClient
from beeyard_client.errors import BeeyardError
from beeyard_client.fleet import Device, Fleet, Pool, Worker

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of tables.")]
_WATCH_INTERVAL_MS = 1_000
POOL_COLUMNS: Final = ("pool", "address", "reports", "inventory", "cpu", "memory free", "fault")
DEVICE_COLUMNS: Final = (
    "pool", "device", "kind", "name", "memory used", "of", "busy", "temperature",
)  # fmt: skip
WORKER_COLUMNS: Final = (
    "worker", "pool", "model", "engine", "device", "state", "free", "tokens/s", "fault",
)  # fmt: skip


def fleet(
    context: typer.Context,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing changes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show hosts, devices and workers."""

    async def command(client: BeeyardClient) -> int:
        if watch:
            return await _watch(client, as_json=as_json)
        now = await _first_snapshot(client)
        if as_json:
            print_json(now)
        else:
            console().print(_tables(now))
        return OK

    ask(context, command, as_json=as_json)


async def _first_snapshot(client: BeeyardClient) -> Fleet:
    snapshots = client.watch_fleet(_WATCH_INTERVAL_MS)
    try:
        async with asyncio.timeout(limits.RPC_DEADLINE_MS / 1000):
            return await anext(snapshots)
    except TimeoutError:
        raise BeeyardError("DEADLINE_EXCEEDED", "the queen did not answer in time") from None
    finally:
        await snapshots.aclose()


async def _watch(client: BeeyardClient, *, as_json: bool) -> int:
    if as_json:
        async for now in client.watch_fleet(_WATCH_INTERVAL_MS):
            print_json(now, one_line=True)
        return OK
    with Live(console=console(), auto_refresh=False) as live:
        async for now in client.watch_fleet(_WATCH_INTERVAL_MS):
            live.update(_tables(now), refresh=True)
    return OK


def _tables(now: Fleet) -> Group:
    pools = table(
        f"hosts ({now.jobs_queued} jobs queued, {now.jobs_running} running)",
        POOL_COLUMNS,
        [pool_row(one) for one in now.pools],
    )
    devices = table(
        "devices",
        DEVICE_COLUMNS,
        [device_row(pool, device) for pool in now.pools for device in pool.devices],
    )
    workers = table(
        "workers",
        WORKER_COLUMNS,
        [worker_row(one) for one in now.workers],
    )
    return Group(pools, "", devices, "", workers)


def pool_row(pool: Pool) -> tuple[object, ...]:
    """Return a host as the cells of a line."""
    return (
        pool.pool_id,
        pool.address or "-",
        "fresh" if pool.fresh else "stale",
        pool.inventory or "-",
        f"{pool.cpu_utilization:.0%} of {pool.cpu_count}",
        f"{size(pool.memory_available_bytes)} of {size(pool.memory_total_bytes)}",
        pool.inventory_fault or "-",
    )


def device_row(pool: Pool, device: Device) -> tuple[object, ...]:
    """Return a device of a host as the cells of a line."""
    heat = "-" if device.temperature_c is None else f"{device.temperature_c:.0f} °C"
    return (
        pool.pool_id,
        device.uuid,
        device.kind,
        device.name,
        size(device.vram_used_bytes),
        size(device.vram_total_bytes),
        f"{device.utilization:.0%}",
        heat,
    )


def worker_row(worker: Worker) -> tuple[object, ...]:
    """Return a worker as the cells of a line."""
    state = worker.state.value
    if state == "STARTING":
        state = f"{state} {worker.load_progress:.0%}"
    elif not worker.attached:
        state = f"{state} (not attached)"
    fault = worker.failure or (worker.log_tail.splitlines() or ["-"])[-1]
    return (
        worker.worker_id,
        worker.pool_id,
        worker.model,
        worker.engine,
        worker.device,
        state,
        f"{worker.slots_free} of {worker.slots_total}",
        f"{worker.tokens_per_s:.1f}" if worker.tokens_per_s else "-",
        fault,
    )
