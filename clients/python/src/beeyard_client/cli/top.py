"""`beeyard top`: the fleet, its GPUs, the queue and the decisions, live in the terminal."""

import sys
from typing import Annotated

import typer

from beeyard_client import limits
from beeyard_client.cli.printing import complain
from beeyard_client.cli.session import FAILED, USAGE, finish, run, target_of
from beeyard_client.client import BeeyardClient


def top(
    context: typer.Context,
    *,
    interval_ms: Annotated[
        int, typer.Option(min=250, max=60_000, help="How often the picture is renewed.")
    ] = 1_000,
) -> None:
    """Watch hosts, GPUs, workers, jobs and decisions; Enter explains a job, t draws its timeline, q leaves.

    It only looks: nothing here changes anything. A queen that goes away is waited for.
    """
    try:
        from beeyard_client.cli.top_screen import TopApp  # noqa: PLC0415 - textual is an extra
    except ImportError:
        complain("the live view needs textual; install it with: pip install 'beeyard[top]'")
        finish(FAILED)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        complain(
            '"beeyard top" needs a terminal; for a program, use "beeyard fleet --watch --json"'
        )
        finish(USAGE)

    async def main() -> int:
        target = target_of(context)
        async with BeeyardClient(
            target.queen, connect_patience_ms=limits.CLI_CONNECT_PATIENCE_MS
        ) as client:
            return await TopApp(client, target.queen, interval_ms).run_async() or 0

    finish(run(main()))
