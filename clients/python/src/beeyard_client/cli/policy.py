"""`beeyard policy`: deploy a scheduling policy, look at versions, go back, follow decisions; or work on a file.

What needs no queen is the queen's own (`python -m beeyard_queen.policy`), because a policy is tried in the sandbox in
which it will run; here those commands only get the name that people remember.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from beeyard_client import limits
from beeyard_client.cli.policy_file import Deploying, deploy_changes, deploy_once
from beeyard_client.cli.printing import clock, print_json, print_table, say
from beeyard_client.cli.services import PASS_ON, become
from beeyard_client.cli.session import OK, ask
from beeyard_client.client import BeeyardClient
from beeyard_client.job import Candidate
from beeyard_client.policy import (
    Decision,
    DispatchIntent,
    EvictIntent,
    Intent,
    PolicyVersion,
    PreemptIntent,
    RejectIntent,
    StartWorkerIntent,
    WaitIntent,
)
from beeyard_client.resume import SystemPauses

policy = typer.Typer(
    no_args_is_help=True,
    help="Deploy scheduling policies to a queen, or try, check and compile them on this machine.",
)

AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
_MODULE: Final = "beeyard_queen.policy"
# What can be done with a file on this machine, without asking a queen.
LOCAL: Final = {
    "validate": "Try a policy in many worlds, here; all arguments are its own (try --help after it).",
    "try": "Run one decision in a real sandbox, here; all arguments are its own.",
    "simulate": "Try a policy on a simulated fleet, in virtual time; all arguments are its own.",
    "diff": "Try policies on one load and say where they differ; all arguments are its own.",
    "replay": "Make recorded decisions again and compare them; all arguments are its own.",
    "compile": "Show the Lua of a YAML policy, or its JSON Schema; all arguments are its own.",
    "source": "Print the platform policy.",
    "templates": "Show policies to start from; all arguments are its own.",
}


@policy.command("deploy")
def deploy(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The policy: Lua, or YAML if so named.")],
    *,
    name: Annotated[str, typer.Option(help="Its name; otherwise the one it gives itself.")] = "",
    note: Annotated[str, typer.Option(help="What it is for.")] = "",
    expect: Annotated[
        int | None, typer.Option(help="Deploy only while this version is active.", min=0)
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Deploy again whenever the file changes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a policy the one that decides; one with an error changes nothing."""
    if watch and expect is not None:
        raise typer.BadParameter(
            "with --watch the active version changes each time", param_hint="--expect"
        )
    wanted = Deploying(
        file=file, name=name, note=note, expected=expect, is_watched=watch, as_json=as_json
    )

    async def command(client: BeeyardClient) -> int:
        if watch:
            return await deploy_changes(client, wanted, SystemPauses())
        return await deploy_once(client, wanted)

    ask(context, command, as_json=as_json)


@policy.command("list")
def list_versions(
    context: typer.Context,
    *,
    name: Annotated[str, typer.Option(help="Only versions of this name.")] = "",
    limit: Annotated[
        int, typer.Option(min=1, max=limits.LIST_PAGE_MAX, help="Most versions, newest first.")
    ] = 50,
    as_json: AsJson = False,
) -> None:
    """List what was deployed, newest first."""

    async def command(client: BeeyardClient) -> int:
        found: list[PolicyVersion] = []
        async for version in client.policy_versions(name=name, page_size=limit):
            found.append(version)
            if len(found) == limit:
                break
        if as_json:
            print_json({"versions": found})
        elif not found:
            say("nothing was deployed; the platform policy decides")
        else:
            columns = ("version", "name", "state", "author", "deployed", "active since", "note")
            print_table("", columns, [_row(one) for one in found])
        return OK

    ask(context, command, as_json=as_json)


def _row(version: PolicyVersion) -> tuple[object, ...]:
    return (
        version.version,
        version.name,
        version.state.value,
        version.author or "-",
        clock(version.create_time),
        clock(version.activate_time),
        version.suspension or version.note or "-",
    )


@policy.command("show")
def show(
    context: typer.Context,
    version: Annotated[
        int | None, typer.Argument(help="Its number, 0 for the platform policy; else the active.")
    ] = None,
    *,
    source: Annotated[bool, typer.Option("--source", help="Only its text.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show one version with its text."""

    async def command(client: BeeyardClient) -> int:
        found = await client.policy_version(version)
        if as_json:
            print_json(found)
            return OK
        if not source:
            _show(found)
            say("")
        say(found.source.text.rstrip("\n") if found.source else "")
        return OK

    ask(context, command, as_json=as_json)


def _show(version: PolicyVersion) -> None:
    rows = [
        ("policy", version.label),
        ("state", version.state.value),
        ("author", version.author or "-"),
        ("note", version.note or "-"),
        ("deployed", clock(version.create_time)),
        ("active since", clock(version.activate_time)),
        ("digest", version.digest),
    ]
    if version.suspension:
        rows.append(("suspended", version.suspension))
    for name, value in rows:
        say(f"{name:<12} {value}")


@policy.command("rollback")
def rollback(
    context: typer.Context,
    version: Annotated[
        int | None,
        typer.Argument(help="Its number, 0 for the platform policy; else the one active before."),
    ] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Make an earlier version active again."""

    async def command(client: BeeyardClient) -> int:
        found = await client.rollback_policy(version)
        if as_json:
            print_json(found)
        else:
            say(f"{found.label} is active")
        return OK

    ask(context, command, as_json=as_json)


@policy.command("watch")
def watch_decisions(
    context: typer.Context,
    *,
    job: Annotated[str, typer.Option(help="Only decisions about this job.")] = "",
    waits: Annotated[
        bool, typer.Option("--waits", help="Decisions to wait as well, at most one a second.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Follow decisions as they are made; Ctrl-C ends it."""

    async def command(client: BeeyardClient) -> int:
        last = 0
        async for decision in client.watch_decisions(job_id=job, include_waits=waits):
            if as_json:
                print_json(decision, one_line=True)
                continue
            if decision.sequence > last + 1:
                say(f"... {decision.sequence - last - 1} decisions were lost on the way")
            last = decision.sequence
            say(decision_line(decision))
        return OK

    ask(context, command, as_json=as_json)


def decision_line(decision: Decision) -> str:
    """Return a decision in one line, for a person."""
    wanted = _wanted(decision.intent)
    outcome = "done" if decision.applied else f"not done: {decision.refusal}"
    if isinstance(decision.intent, WaitIntent):
        outcome = ""
    marks = " (fallback)" if decision.fallback else ""
    told = f"{clock(decision.create_time)} {decision.policy_version}{marks} {wanted}"
    told = f"{told}; {outcome}" if outcome else told
    return f"{told}; {_compared(decision.candidates)}" if decision.candidates else told


def _compared(candidates: Sequence[Candidate]) -> str:
    """Return how the workers compared that a placement chose from, the chosen one first."""
    return ", ".join(f"{one.worker_id} {one.excluded_by or _end(one)}" for one in candidates)


def _end(candidate: Candidate) -> str:
    return f"{candidate.predicted_end_ms / 1000:.1f} s" if candidate.predicted_end_ms else "unknown"


def _wanted(intent: Intent | None) -> str:
    match intent:
        case DispatchIntent():
            return f"dispatch {intent.job_id} to {intent.worker_id}"
        case WaitIntent():
            return f"wait: {intent.reason}" if intent.reason else "wait"
        case StartWorkerIntent():
            return f"start a worker of {intent.model} on {intent.pool_id or 'any pool'}"
        case EvictIntent():
            return f"evict {intent.worker_id}"
        case PreemptIntent():
            return f"preempt {intent.job_id} for {intent.for_job_id}"
        case RejectIntent():
            return f"reject {intent.job_id}"
        case None:
            return "something that this client does not know"


def _add_local(name: str, about: str) -> None:
    def local(context: typer.Context) -> None:
        become("queen", _MODULE, [name, *context.args])

    add = policy.command(name, context_settings=PASS_ON, add_help_option=False, help=about)
    add(local)


for _name, _about in LOCAL.items():
    _add_local(_name, _about)
