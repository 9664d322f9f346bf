"""`beeyard doctor`: what is missing, and what to do about it."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from beeyard_client.cli import checks
from beeyard_client.cli.checks import Finding, Level
from beeyard_client.cli.folders import default_data_dir
from beeyard_client.cli.printing import print_json, say
from beeyard_client.cli.secured import FOLDER
from beeyard_client.cli.session import FAILED, OK, Target, finish, run, target_of


def doctor(
    context: typer.Context,
    *,
    store: Annotated[
        Path | None,
        typer.Option(
            help="Look this store of a queen over instead, in use or not.", metavar="FILE"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of lines.")] = False,
) -> None:
    """Check this machine, the queen and the fleet, or a queen's store; exits with 1 if something fails."""
    target = target_of(context)

    async def main() -> int:
        findings = await (examine(target) if store is None else checks.store(store))
        failed = any(one.level is Level.FAIL for one in findings)
        if as_json:
            print_json({"ok": not failed, "findings": findings})
        else:
            for one in findings:
                _show(one)
        return FAILED if failed else OK

    finish(run(main()))


async def examine(target: Target) -> list[Finding]:
    """Return every finding, in the order in which things depend on each other."""
    roles = await asyncio.gather(*(checks.role(one) for one in checks.ROLES))
    findings = [checks.python_version(), *roles, checks.demo_model(), await checks.gpu_driver()]
    findings += await checks.secrets(target.access, (default_data_dir() / FOLDER,))
    queen = await checks.queen(target.queen, target.access)
    findings.append(queen)
    if queen.level is Level.OK:
        findings += await checks.fleet(target.queen, target.access)
    else:
        findings.append(checks.port_free(target.queen))
    return findings


def _show(finding: Finding) -> None:
    advice = f"; {finding.advice}" if finding.advice else ""
    say(f"{finding.level.value:<5} {finding.check:<16} {finding.message}{advice}")
