"""`beeyard lease`: run a command under a lease, queue heavy work, look at it and at capacity, take leases away."""

import json
from pathlib import Path
from typing import Annotated

import typer

from beeyard_client import limits
from beeyard_client.cli.infer import PriorityWord
from beeyard_client.cli.lease_run import GRACE_MS_DEFAULT, Announcer, run_under
from beeyard_client.cli.printing import clock, print_json, print_table, say
from beeyard_client.cli.session import OK, ask
from beeyard_client.client import BeeyardClient
from beeyard_client.work import BusyFactor, Capacity, HostCapacity, Work, WorkState

lease = typer.Typer(
    no_args_is_help=True,
    help="Heavy work that is not inference: run it under a lease, queue it, look at it.",
)

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
Units = Annotated[int, typer.Option("--units", min=1, max=100, help="Capacity units it costs.")]
OfPriority = Annotated[PriorityWord | None, typer.Option("--priority", help="How urgent it is.")]
OfTenant = Annotated[str, typer.Option("--tenant", help="Whose work it is.")]
DeadlineMs = Annotated[
    int, typer.Option(min=0, max=limits.DEADLINE_MS_MAX, help="Time until its end; 0: no limit.")
]
WorkId = Annotated[str, typer.Argument(help="The work's id.")]
_STATES = [one for one in WorkState if one is not WorkState.UNKNOWN]


@lease.command("run", context_settings={"allow_interspersed_args": False})
def run(  # noqa: PLR0913  one argument an option
    context: typer.Context,
    command: Annotated[list[str], typer.Argument(help="The command, best after --.")],
    *,
    kind: Annotated[str, typer.Option(help="What kind of work it is.")] = "command",
    units: Units = 1,
    priority: OfPriority = None,
    tenant: OfTenant = "",
    pool: Annotated[
        str, typer.Option(help="The host that it runs on; empty: where there is most room.")
    ] = "",
    wait_ms: Annotated[
        int | None, typer.Option(min=0, help="Give up waiting after so long; not given: never.")
    ] = None,
    deadline_ms: DeadlineMs = 0,
    grace_ms: Annotated[
        int, typer.Option(min=0, help="Time between SIGTERM and SIGKILL if the lease is lost.")
    ] = GRACE_MS_DEFAULT,
) -> None:
    """Run a command under a lease and end with its exit code; it is ended if the lease is lost."""

    async def main(client: BeeyardClient) -> int:
        held = client.lease(
            kind,
            capacity_units=units,
            priority=priority,
            # Not its arguments: they may hold what nobody else should read.
            payload={"program": Path(command[0]).name},
            tenant_id=tenant,
            deadline_ms=deadline_ms,
            pool_id=pool,
            patience_ms=wait_ms,
            on_denied=Announcer(),
        )
        return await run_under(held, command, grace_ms)

    ask(context, main, as_json=False)


@lease.command("submit")
def submit(  # noqa: PLR0913  one argument an option
    context: typer.Context,
    kind: Annotated[str, typer.Argument(help="The word by which those who can do it find it.")],
    *,
    units: Units = 1,
    priority: OfPriority = None,
    tenant: OfTenant = "",
    payload: Annotated[str, typer.Option(help="What to do, as a JSON object.")] = "{}",
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; may be repeated.")] = None,
    unique_key: Annotated[
        str, typer.Option(help="While work with this key has not ended, there is no other.")
    ] = "",
    deadline_ms: DeadlineMs = 0,
    max_attempts: Annotated[
        int, typer.Option(min=0, max=10, help="How often it may be leased; 0: 3.")
    ] = 0,
    request_id: Annotated[str, typer.Option(help="Idempotency key.")] = "",
    as_json: AsJson = False,
) -> None:
    """Queue work for whoever can do it."""
    body = _payload(payload)
    labels = dict(_pair(text) for text in label or [])

    async def command(client: BeeyardClient) -> int:
        work = await client.submit_work(
            kind,
            capacity_units=units,
            priority=priority,
            payload=body,
            tenant_id=tenant,
            labels=labels,
            unique_key=unique_key,
            deadline_ms=deadline_ms,
            max_attempts=max_attempts,
            request_id=request_id,
        )
        _tell(work, as_json=as_json)
        return OK

    ask(context, command, as_json=as_json)


def _payload(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise typer.BadParameter('--payload is a JSON object, such as \'{"folder": "/data"}\'')
    return found


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise typer.BadParameter("--label is NAME=VALUE")
    return name, value


@lease.command("list")
def list_work(
    context: typer.Context,
    *,
    state: Annotated[
        list[str] | None, typer.Option(help="Only this state; may be repeated.")
    ] = None,
    kind: Annotated[str, typer.Option(help="Only of this kind.")] = "",
    tenant: Annotated[str, typer.Option(help="Only this tenant's.")] = "",
    limit: Annotated[
        int, typer.Option(min=1, max=100_000, help="Most to show, newest first.")
    ] = 50,
    as_json: AsJson = False,
) -> None:
    """List heavy work with its leases, newest first."""
    states = _states(state or [])

    async def command(client: BeeyardClient) -> int:
        found: list[Work] = []
        listing = client.list_work(
            states=states, kind=kind, tenant_id=tenant, page_size=min(limit, limits.LIST_PAGE_MAX)
        )
        async for work in listing:
            found.append(work)
            if len(found) == limit:
                break
        if as_json:
            print_json({"work": found})
        elif not found:
            say("no heavy work")
        else:
            columns = ("work", "kind", "state", "priority", "units", "tenant", "progress")
            more = ("lease", "holder", "host", "accepted")
            print_table("", (*columns, *more), [_row(work) for work in found])
        return OK

    ask(context, command, as_json=as_json)


def _states(words: list[str]) -> list[WorkState]:
    names = [one.value for one in _STATES]
    if any(one.upper() not in names for one in words):
        raise typer.BadParameter(f"a state is one of {', '.join(names)}")
    return [WorkState(one.upper()) for one in words]


def _row(work: Work) -> tuple[object, ...]:
    held = work.lease
    return (
        work.work_id,
        work.kind,
        work.state.value,
        work.priority.value,
        work.capacity_units,
        work.tenant_id,
        f"{work.progress:.0%}",
        held.lease_id if held else "-",
        held.worker_id if held else "-",
        held.pool_id if held else "-",
        clock(work.create_time),
    )


@lease.command("get")
def get(context: typer.Context, work_id: WorkId, *, as_json: AsJson = False) -> None:
    """Show one piece of work."""

    async def command(client: BeeyardClient) -> int:
        _tell(await client.get_work(work_id), as_json=as_json)
        return OK

    ask(context, command, as_json=as_json)


@lease.command("cancel")
def cancel(
    context: typer.Context,
    work_id: WorkId,
    *,
    reason: Annotated[str, typer.Option(help="Why, for its holder and the record.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make sure that a piece of work does not run (any more)."""

    async def command(client: BeeyardClient) -> int:
        _tell(await client.cancel_work(work_id, reason), as_json=as_json)
        return OK

    ask(context, command, as_json=as_json)


@lease.command("revoke")
def revoke(
    context: typer.Context,
    lease_id: Annotated[str, typer.Argument(help="The lease's id.")],
    *,
    requeue: Annotated[
        bool, typer.Option("--requeue", help="Let somebody else do the work.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why, for its holder and the record.")] = "",
    as_json: AsJson = False,
) -> None:
    """Take a lease away; its holder learns it from its next heartbeat."""

    async def command(client: BeeyardClient) -> int:
        work = await client.revoke_lease(lease_id, reason=reason, requeue=requeue)
        _tell(work, as_json=as_json)
        return OK

    ask(context, command, as_json=as_json)


def _tell(work: Work, *, as_json: bool) -> None:
    if as_json:
        print_json(work)
        return
    say(f"{work.work_id} {work.state.value}{f': {work.failure}' if work.failure else ''}")
    if work.result:
        say(json.dumps(dict(work.result), ensure_ascii=False))


@lease.command("capacity")
def capacity(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Show how much heavy work the hosts can take now, and why."""

    async def command(client: BeeyardClient) -> int:
        found = await client.capacity()
        if as_json:
            print_json(found)
        else:
            _show_capacity(found)
        return OK

    ask(context, command, as_json=as_json)


def _show_capacity(found: Capacity) -> None:
    fresh = "" if found.fresh else ", no host reports"
    say(
        f"busy {found.busy_rating} of 10{fresh}: {found.units_usable} of {found.units_total} units "
        f"are usable, {found.units_leased} leased, {found.units_inference} used by inference"
    )
    for waiting in found.queued:
        say(f"{waiting.count} {waiting.priority.value} wait for {waiting.capacity_units} units")
    columns = ("host", "busy", "usable", "of", "leased", "inference", "reports", "worst")
    if found.hosts:
        print_table("", columns, [_host_row(one) for one in found.hosts])


def _host_row(host: HostCapacity) -> tuple[object, ...]:
    worst = max(host.factors, key=lambda one: one.points, default=BusyFactor("-", None, 0))
    value = "missing" if worst.value is None else f"{worst.value:.0f}"
    return (
        host.pool_id,
        host.busy_rating,
        host.units_usable,
        host.units_total,
        host.units_leased,
        host.units_inference,
        "fresh" if host.fresh else "stale",
        f"{worst.name} {value}",
    )
