"""`beeyard jobs`: list, look at, follow, cancel, explain."""

import asyncio
from typing import Annotated, Final

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from beeyard_client import limits
from beeyard_client.cli.history import predicted, statistics
from beeyard_client.cli.infer import follow
from beeyard_client.cli.printing import (
    clock,
    console,
    print_json,
    print_table,
    printable,
    say,
    table,
)
from beeyard_client.cli.session import OK, ask
from beeyard_client.client import BeeyardClient
from beeyard_client.job import Candidate, Explanation, Job, JobState, LeaseRecord

jobs = typer.Typer(no_args_is_help=True, help="List, look at, follow, cancel and explain jobs.")

jobs.command("stats")(statistics)

JobId = Annotated[str, typer.Argument(help="The job's id.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
_CANDIDATE_COLUMNS: Final = ("worker", "pool", "verdict", "detail", "would end in")
_LEASE_COLUMNS: Final = ("attempt", "lease", "worker", "ending", "from", "to")
_STATES = [one for one in JobState if one is not JobState.UNKNOWN]


def _states(words: list[str]) -> list[JobState]:
    names = [one.value for one in _STATES]
    unknown = [one for one in words if one.upper() not in names]
    if unknown:
        raise typer.BadParameter(f"a state is one of {', '.join(names)}")
    return [JobState(one.upper()) for one in words]


@jobs.command("list")
def list_jobs(
    context: typer.Context,
    *,
    state: Annotated[
        list[str] | None, typer.Option(help="Only this state; may be repeated.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="Only this tenant's.")] = "",
    model: Annotated[str, typer.Option(help="Only for this model.")] = "",
    limit: Annotated[
        int, typer.Option(min=1, max=100_000, help="Most jobs to show, newest first.")
    ] = 50,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    states = _states(state or [])

    async def command(client: BeeyardClient) -> int:
        found: list[Job] = []
        listing = client.list_jobs(
            states=states,
            tenant_id=tenant,
            model=model,
            page_size=min(limit, limits.LIST_PAGE_MAX),
        )
        async for job in listing:
            found.append(job)
            if len(found) == limit:
                break
        if as_json:
            print_json({"jobs": found})
        elif not found:
            say("no jobs")
        else:
            columns = (
                "job",
                "state",
                "model",
                "priority",
                "tenant",
                "tokens",
                "worker",
                "accepted",
            )
            print_table("", columns, [_row(job) for job in found])
        return OK

    ask(context, command, as_json=as_json)


def _row(job: Job) -> tuple[object, ...]:
    return (
        job.job_id,
        job.state.value,
        job.model,
        job.priority.value,
        job.tenant_id,
        job.next_index,
        job.worker_id or "-",
        clock(job.create_time),
    )


@jobs.command("get")
def get(context: typer.Context, job_id: JobId, *, as_json: AsJson = False) -> None:
    """Show one job."""

    async def command(client: BeeyardClient) -> int:
        job = await client.get(job_id)
        if as_json:
            print_json(job)
        else:
            _show(job)
        return OK

    ask(context, command, as_json=as_json)


def _show(job: Job) -> None:
    rows: list[tuple[str, object]] = [
        ("job", job.job_id),
        ("state", job.state.value),
        ("model", job.model),
        ("priority", job.priority.value),
        ("tenant", job.tenant_id),
        ("accepted", clock(job.create_time)),
        ("leased", clock(job.start_time)),
        ("ended", clock(job.end_time)),
        ("attempt", f"{job.attempt} of {job.max_attempts}"),
        ("worker", job.worker_id or "-"),
        ("tokens", f"{job.next_index} of at most {job.max_tokens}"),
        ("seed", job.seed),
        ("policy", job.policy_version or "-"),
        ("trace", job.trace_id or "-"),
    ]
    if job.state is JobState.QUEUED:
        rows.append(("before it", job.position))
    if job.prediction is not None:
        rows.append(("predicted", predicted(job.prediction)))
    if job.finish_reason:
        rows.append(("finished", job.finish_reason.value))
    if job.failure:
        rows.append(("failure", f"{job.failure.reason}: {job.failure.message}"))
    if job.timings:
        rows.append(("first token", f"{job.timings.first_token_ms:.0f} ms"))
        rows.append(("speed", f"{job.timings.tokens_per_s:.1f} tokens/s"))
    for name, value in rows:
        say(f"{name:<12} {value}")


@jobs.command("watch")
def watch(
    context: typer.Context,
    job_id: JobId,
    *,
    from_token: Annotated[
        int, typer.Option("--from", min=0, help="Index of the first token to show.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Follow a job from a token index on; Ctrl-C stops looking and leaves the job alone."""

    async def command(client: BeeyardClient) -> int:
        stream = client.watch(job_id, from_token=from_token)
        return await follow(client, stream, as_json=as_json, show_timeline=False, cancels=False)

    ask(context, command, as_json=as_json)


@jobs.command("cancel")
def cancel(
    context: typer.Context,
    job_ids: Annotated[list[str], typer.Argument(help="One job or several.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Cancel jobs; one that has ended already stays as it is."""

    async def command(client: BeeyardClient) -> int:
        found = await asyncio.gather(*(client.cancel(one) for one in job_ids))
        if as_json:
            print_json({"jobs": found})
        else:
            for job in found:
                say(f"{job.job_id} {job.state.value}")
        return OK

    ask(context, command, as_json=as_json)


@jobs.command("explain")
def explain(context: typer.Context, job_id: JobId, *, as_json: AsJson = False) -> None:
    """Say why a job waits, or why it ran where it ran."""

    async def command(client: BeeyardClient) -> int:
        told = await client.explain(job_id)
        if as_json:
            print_json(told)
        else:
            console().print(explanation_view(told))
        return OK

    ask(context, command, as_json=as_json)


def explanation_view(told: Explanation) -> Group:
    """Return why a job waits or ran where it ran, to be printed or shown on a screen."""
    lines = [f"{told.job.job_id} {told.job.state.value}: {told.summary}"]
    if told.job.prediction is not None and told.job.state is JobState.QUEUED:
        lines.append(predicted(told.job.prediction))
    if told.held_ms:
        lines.append(f"held back for at most {told.held_ms / 1000:.0f} s: urgent work is expected")
    if told.remedy is not None:
        lines.append(f"what would help: if {told.remedy.message}")
    lines += (f"or: if {other.message}" for other in told.other_remedies)
    parts: list[Text | Table] = [Text(printable(line)) for line in lines]
    if told.candidates:
        parts.append(table("", _CANDIDATE_COLUMNS, map(_candidate_row, told.candidates)))
    if told.leases:
        parts.append(table("leases", _LEASE_COLUMNS, map(_lease_row, told.leases)))
    return Group(*parts)


def _candidate_row(one: Candidate) -> tuple[object, ...]:
    return (
        one.worker_id,
        one.pool_id,
        "chosen" if one.chosen else one.excluded_by or "feasible",
        one.detail,
        f"{one.predicted_end_ms / 1000:.1f} s" if one.predicted_end_ms else "-",
    )


def _lease_row(one: LeaseRecord) -> tuple[object, ...]:
    return (
        one.attempt,
        one.lease_id,
        one.worker_id,
        f"{one.ending}, revoked" if one.was_revoked else one.ending,
        clock(one.lease_time),
        clock(one.end_time),
    )
