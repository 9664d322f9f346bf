"""`beeyard models`: what can be asked for, and how many workers of it there should be."""

from typing import Annotated

import typer

from beeyard_client.cli.printing import print_json, print_table, say, size
from beeyard_client.cli.session import OK, ask
from beeyard_client.client import BeeyardClient
from beeyard_client.fleet import Model
from beeyard_client.scale import ModelScale, Scale

models = typer.Typer(help="Models, and how many workers each should have.")
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]
_MS = 1_000


@models.callback(invoke_without_command=True)
def show(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Show every model that can be asked for."""
    if context.invoked_subcommand is not None:
        return

    async def command(client: BeeyardClient) -> int:
        found = await client.models()
        if as_json:
            print_json({"models": found})
        elif not found:
            say("no models; start a pool manager with --model, or put GGUF files into its folder")
        else:
            columns = ("model", "workers", "starting", "jobs queued", "size", "quantization")
            print_table("", (*columns, "context", "pools"), [_model_row(one) for one in found])
        return OK

    ask(context, command, as_json=as_json)


@models.command("scales")
def scales(context: typer.Context, *, as_json: AsJson = False) -> None:
    """Show how many workers each model should have, and has."""

    async def command(client: BeeyardClient) -> int:
        found = await client.model_scales()
        if as_json:
            print_json({"model_scales": found})
        elif not found:
            say("no model was ever offered, and none has a scale")
        else:
            _print_scales(found)
        return OK

    ask(context, command, as_json=as_json)


@models.command("scale")
def scale(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The name that jobs use.")],
    *,
    least: Annotated[
        int | None, typer.Option("--min", min=0, help="So many always, where there is room.")
    ] = None,
    most: Annotated[int | None, typer.Option("--max", min=1, help="Never more.")] = None,
    keep_warm: Annotated[
        float | None,
        typer.Option(
            "--keep-warm", min=0, metavar="SECONDS", help="Stop one that was unused for so long."
        ),
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="What the queen's file says counts again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say how many workers a model should have. The whole of it: what is left out does not bound."""
    wanted = Scale(
        min_workers=least or 0,
        max_workers=most,
        keep_warm_ms=None if keep_warm is None else round(keep_warm * _MS),
    )
    said = (least, most, keep_warm) != (None, None, None)
    if said == reset:
        raise typer.BadParameter("say --min, --max or --keep-warm, or --reset alone")

    async def command(client: BeeyardClient) -> int:
        now = await client.scale_model(model, None if reset else wanted)
        if as_json:
            print_json(now)
        else:
            _print_scales((now,))
        return OK

    ask(context, command, as_json=as_json)


def _print_scales(found: tuple[ModelScale, ...]) -> None:
    columns = ("model", "min", "max", "kept warm", "said", "workers", "starting", "jobs queued")
    print_table("", columns, [_scale_row(one) for one in found])


def _scale_row(one: ModelScale) -> tuple[object, ...]:
    wanted = one.scale
    warm_ms = wanted.keep_warm_ms
    return (
        one.model,
        wanted.min_workers,
        "-" if wanted.max_workers is None else wanted.max_workers,
        "for ever" if warm_ms is None else f"{warm_ms / _MS:g} s",
        one.source.lower().replace("_", " ") or "-",
        one.workers_ready,
        one.workers_starting,
        one.jobs_queued,
    )


def _model_row(model: Model) -> tuple[object, ...]:
    return (
        model.model,
        model.workers_ready,
        model.workers_starting,
        model.jobs_queued,
        size(model.size_bytes),
        model.quantization or "-",
        model.context_tokens or "-",
        ", ".join(model.pool_ids) or "-",
    )
