"""Runs one command against a queen, and turns whatever goes wrong into one line and an exit code."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

import typer

from beeyard_client import limits
from beeyard_client.access import NOBODY, Access
from beeyard_client.cli.printing import complain, print_json
from beeyard_client.client import BeeyardClient
from beeyard_client.errors import BeeyardError, JobFailedError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2

# What a person can do about a reason, where the message of the queen does not say it.
_ADVICE: Final = {
    "QUEEN_UNREACHABLE": 'start one with "beeyard up", or give its address with --queen',
    "UNAUTHENTICATED": "give a token with --token or in BEEYARD_TOKEN",
    "JOB_NOT_FOUND": '"beeyard jobs list" shows the jobs that the queen still keeps',
    "NO_WORKERS_AVAILABLE": '"beeyard fleet" shows what runs',
    "POOL_UNREADY": '"beeyard fleet" shows what the hosts report',
    "STREAM_READ_ERROR": 'the job goes on if it was accepted; "beeyard jobs list" shows it',
    "WORKER_ERROR": '"beeyard fleet" shows the last lines of its log',
    "MODEL_LOAD_FAILED": '"beeyard fleet" shows why',
    "CAPACITY_GATED": '"beeyard lease capacity" shows how busy the hosts are',
    "QUOTA_EXCEEDED": '"beeyard tenants" shows quotas and what is used of them',
    "NO_CAPACITY": '"beeyard lease list --state running" shows what runs',
    "LEASE_NOT_FOUND": '"beeyard lease list" shows work with its leases',
    "POLICY_NOT_FOUND": '"beeyard policy list" shows the versions that the queen keeps',
    "STALE_POLICY_VERSION": '"beeyard policy show" shows the active one',
}


@dataclass(frozen=True, slots=True)
class Target:
    """Which queen the command talks to, and as whom."""

    queen: str
    access: Access = NOBODY


def target_of(context: typer.Context) -> Target:
    """Return the target that the global options named."""
    found = context.find_object(Target)
    if found is None:
        raise typer.BadParameter("no queen is named")
    return found


def ask(
    context: typer.Context,
    command: Callable[[BeeyardClient], Awaitable[int]],
    *,
    as_json: bool,
    tracer_provider: "TracerProvider | None" = None,
) -> NoReturn:
    """Run `command` with a client, print what goes wrong, and end with its exit code."""
    target = target_of(context)

    async def main() -> int:
        async with BeeyardClient(
            target.queen,
            access=target.access,
            connect_patience_ms=limits.CLI_CONNECT_PATIENCE_MS,
            tracer_provider=tracer_provider,
        ) as client:
            try:
                return await command(client)
            except BeeyardError as error:
                await report(error, client, as_json=as_json)
                return FAILED

    finish(run(main()))


def run(main: Coroutine[object, object, int]) -> int:
    """Run a coroutine to its end; Ctrl-C and SIGTERM cancel it, a second Ctrl-C ends it at once."""
    try:
        with asyncio.Runner() as runner:
            return runner.run(_with_sigterm(main))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return FAILED
    except BrokenPipeError:
        _forget_stdout()
        return FAILED


def finish(code: int) -> NoReturn:
    """End the command with `code`."""
    raise typer.Exit(code)


async def _with_sigterm(main: Coroutine[object, object, int]) -> int:
    task = asyncio.current_task()
    if task is not None and sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await main


def _forget_stdout() -> None:
    # Whoever read our output is gone; Python would complain again when it flushes stdout at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def report(
    error: BeeyardError, client: BeeyardClient, *, as_json: bool, one_line: bool = False
) -> None:
    """Print one error: as one line on stderr, or as `{"error": ...}` on stdout, in one line among others."""
    advice = _ADVICE.get(error.reason, "")
    known: tuple[str, ...] = ()
    if error.reason == "MODEL_NOT_FOUND":
        known = await _known_models(client)
        unnamed = [one for one in known if one not in error.message]
        if not known:
            advice = "it knows no model yet; start a pool manager with --model"
        elif unnamed:
            advice = f"it knows {', '.join(known)}"
    if as_json:
        print_json({"error": _as_fields(error, advice, known)}, one_line=one_line)
    else:
        complain(f"{error.message}; {advice}" if advice else error.message)


def _as_fields(error: BeeyardError, advice: str, known: tuple[str, ...]) -> dict[str, object]:
    fields: dict[str, object] = {
        "reason": error.reason,
        "message": error.message,
        "code": error.code.name if error.code else None,
        "field": error.field or None,
        "retry_after_ms": error.retry_after_ms,
        "metadata": error.metadata,
        "job_id": error.job_id or None,
        "advice": advice or None,
    }
    if isinstance(error, JobFailedError):
        fields["retriable"] = error.retriable
    if error.reason == "MODEL_NOT_FOUND":
        fields["known_models"] = known
    return fields


async def _known_models(client: BeeyardClient) -> tuple[str, ...]:
    try:
        return tuple(one.model for one in await client.models())
    except BeeyardError:
        # The list only adorns the error that is being reported.
        return ()
