"""`beeyard infer`: a prompt goes in, its continuation streams out."""

import asyncio
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from beeyard_client import limits
from beeyard_client.cli.display import JobDisplay
from beeyard_client.cli.printing import complain, print_json, say
from beeyard_client.cli.session import FAILED, OK, USAGE, ask, finish, report
from beeyard_client.cli.timeline import timeline
from beeyard_client.cli.tracing import tracer_provider
from beeyard_client.client import BeeyardClient
from beeyard_client.errors import BeeyardError
from beeyard_client.events import Finished, Started
from beeyard_client.job import JobOptions
from beeyard_client.stream import JobStream

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


class PriorityWord(StrEnum):
    """What `--priority` takes; `high` and `low` are aliases of `interactive` and `batch`."""

    INTERACTIVE = "interactive"
    NORMAL = "normal"
    BATCH = "batch"
    BACKGROUND = "background"
    HIGH = "high"
    LOW = "low"


def infer(  # noqa: PLR0913  one argument an option
    context: typer.Context,
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="The text to continue; - reads it from stdin.")
    ],
    *,
    model: Annotated[str, typer.Option(help="Which model; the queen's default if left out.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Most tokens to generate; 0: 256.")] = 0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 to 2.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Above 0 to 1.")] = None,
    top_k: Annotated[int | None, typer.Option(help="0: every token is a candidate.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help="Ends the answer; may be repeated.")
    ] = None,
    priority: Annotated[PriorityWord | None, typer.Option(help="How urgent it is.")] = None,
    tenant: Annotated[str, typer.Option(help="Whose job it is.")] = "",
    deadline_ms: Annotated[int, typer.Option(help="From acceptance to end; 0: none.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object at the end.")] = False,
    detach: Annotated[bool, typer.Option(help="Return when the job is accepted.")] = False,
    show_timeline: Annotated[
        bool, typer.Option("--timeline", help="Show afterwards what became of the job.")
    ] = False,
) -> None:
    """Continue PROMPT and stream the text as it comes; Ctrl-C cancels the job."""
    options: JobOptions = {
        "model": model,
        "max_tokens": max_tokens,
        "seed": seed,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "stop": stop or [],
        "priority": priority.value if priority else None,
        "tenant_id": tenant,
        "deadline_ms": deadline_ms,
    }
    text = read_stdin() if prompt == "-" else prompt
    provider = tracer_provider(wanted=show_timeline)

    async def command(client: BeeyardClient) -> int:
        if detach:
            return await _submit(client, text, options, as_json=as_json)
        stream = client.infer(text, **options)
        return await follow(client, stream, as_json=as_json, show_timeline=show_timeline)

    try:
        ask(context, command, as_json=as_json, tracer_provider=provider)
    finally:
        _flush(provider)


def read_stdin() -> str:
    """Return what stdin holds, without the line end that a shell adds; ends the command if it is no text."""
    raw = sys.stdin.buffer.read(limits.PROMPT_BYTES_MAX + 1)
    if len(raw) > limits.PROMPT_BYTES_MAX:
        complain(f"the prompt on stdin is longer than {limits.PROMPT_BYTES_MAX} bytes; shorten it")
        finish(USAGE)
    try:
        return raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        complain(f"the prompt on stdin is not valid UTF-8 (byte {error.start}); convert it first")
        finish(USAGE)


async def follow(
    client: BeeyardClient,
    stream: JobStream,
    *,
    as_json: bool,
    show_timeline: bool,
    cancels: bool = True,
) -> int:
    """Show a job to its end.

    Args:
        client: For what is asked after the end.
        stream: The job.
        as_json: One JSON object at the end instead of the text as it comes.
        show_timeline: Whether to show what became of the job.
        cancels: Whether the job is cancelled when this command is.

    Returns:
        The exit code: 0 if the job is COMPLETED.
    """
    display = JobDisplay(show_text=not as_json)
    attempts: list[Started] = []
    async with stream:
        try:
            async for event in stream:
                if isinstance(event, Started):
                    attempts.append(event)
                display.show(event)
        except asyncio.CancelledError:
            display.stop()
            if cancels:
                await _cancel(stream)
            raise
        except BrokenPipeError:
            # Nobody reads any more, so there is no line to end either.
            if cancels:
                await _cancel(stream)
            raise
        except BeeyardError:
            display.stop()
            raise
    display.stop()
    return await _conclude(client, stream, attempts, as_json=as_json, show_timeline=show_timeline)


async def _conclude(
    client: BeeyardClient,
    stream: JobStream,
    attempts: list[Started],
    *,
    as_json: bool,
    show_timeline: bool,
) -> int:
    if not isinstance(stream.ending, Finished):
        try:
            await stream.text()
        except BeeyardError as error:
            await report(error, client, as_json=as_json)
        return FAILED
    if as_json:
        print_json(await _as_fields(client, stream, stream.ending))
    elif show_timeline:
        job = await client.get(stream.job_id)
        say("")
        for line in timeline(job, attempts, stream.ending, stream.trace_id):
            say(line)
    return OK


async def _as_fields(
    client: BeeyardClient, stream: JobStream, ending: Finished
) -> dict[str, object]:
    job = await client.get(stream.job_id)
    started = stream.started
    return {
        "job_id": job.job_id,
        "text": stream.text_so_far,
        "token_ids": stream.token_ids,
        "finish_reason": ending.reason,
        "usage": ending.usage,
        "timings": ending.timings,
        "model": job.model or (started.model if started else ""),
        "worker_id": job.worker_id,
        "seed": job.seed,
        "attempt": job.attempt,
        "policy_version": job.policy_version,
        "decision": started.decision if started else "",
        "trace_id": job.trace_id or stream.trace_id,
    }


async def _submit(client: BeeyardClient, prompt: str, options: JobOptions, *, as_json: bool) -> int:
    job = await client.submit(prompt, **options)
    if as_json:
        print_json(job)
    else:
        say(job.job_id)
        if sys.stderr.isatty():
            complain(f'accepted; follow it with "beeyard jobs watch {job.job_id}"')
    return OK


async def _cancel(stream: JobStream) -> None:
    try:
        job = await stream.cancel()
    except BeeyardError as error:
        complain(f"could not cancel the job: {error.message}")
        return
    complain(f"cancelled job {job.job_id}")


def _flush(provider: "TracerProvider | None") -> None:
    if provider is not None:
        provider.shutdown()
