"""`beeyard tenants`: who may have what, and has it."""

from typing import Annotated

import typer

from beeyard_client.cli.printing import print_json, print_table, say, size
from beeyard_client.cli.session import OK, ask
from beeyard_client.client import BeeyardClient
from beeyard_client.fleet import Quota, Tenant


def tenants(
    context: typer.Context,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Show tenants with their quotas and what they have now."""

    async def command(client: BeeyardClient) -> int:
        found = await client.tenants()
        if as_json:
            print_json({"tenants": found})
        elif not found:
            say("no tenant has submitted anything, and none has a quota of its own")
        else:
            columns = (
                *("tenant", "unfinished", "running", "tokens", "requests", "memory"),
                *("a session", "beyond"),
            )
            mode = "quotas are enforced" if found[0].enforced else "quotas are only reported"
            print_table(mode, columns, [_row(one) for one in found])
        return OK

    ask(context, command, as_json=as_json)


def _row(tenant: Tenant) -> tuple[object, ...]:
    quota = tenant.quota
    rate = quota.requests_per_second
    beyond = ", ".join(f"{count} x {name}" for name, count in sorted(tenant.exceeded.items()))
    return (
        tenant.tenant_id,
        _of(tenant.jobs_unfinished, quota.concurrent_jobs),
        tenant.jobs_running,
        _of(tenant.tokens_total, quota.tokens_per_minute, "/min"),
        _of(tenant.requests_total, None if rate is None else f"{rate:g}", "/s"),
        "-" if quota.vram_bytes is None else f"at most {size(quota.vram_bytes)}",
        _budget(quota),
        beyond or "-",
    )


def _budget(quota: Quota) -> str:
    """What each session of a tenant may use in all."""
    limits = ((quota.session_tokens, "tokens"), (quota.session_cost_units, "cost units"))
    told = [f"at most {most} {unit}" for most, unit in limits if most is not None]
    return ", ".join(told) or "-"


def _of(used: int, most: object, unit: str = "") -> str:
    return str(used) if most is None else f"{used} (at most {most}{unit})"
