"""The command `beeyard`, put together."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from beeyard_client.access import Access
from beeyard_client.cli import services
from beeyard_client.cli.doctor import doctor
from beeyard_client.cli.fleet import fleet
from beeyard_client.cli.history import forecast
from beeyard_client.cli.infer import infer
from beeyard_client.cli.jobs import jobs
from beeyard_client.cli.lease import lease
from beeyard_client.cli.models import models
from beeyard_client.cli.policy import policy
from beeyard_client.cli.printing import complain
from beeyard_client.cli.session import USAGE, Target
from beeyard_client.cli.tenants import tenants
from beeyard_client.cli.top import top
from beeyard_client.cli.trace import trace
from beeyard_client.cli.up import up
from beeyard_client.client import DEFAULT_QUEEN

app = typer.Typer(
    name="beeyard",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="LLM inference on your own machines: run it, ask it, look at it.",
)


def _file(variable: str, text: str) -> Any:
    return typer.Option(envvar=variable, exists=True, dir_okay=False, readable=True, help=text)


@app.callback()
def options(
    context: typer.Context,
    *,
    queen: Annotated[
        str, typer.Option(envvar="BEEYARD_QUEEN", metavar="HOST:PORT", help="The queen to ask.")
    ] = DEFAULT_QUEEN,
    token: Annotated[
        str,
        typer.Option(
            envvar="BEEYARD_TOKEN", show_envvar=True, help="Who you are; better in the variable."
        ),
    ] = "",
    ca: Annotated[
        Path | None, _file("BEEYARD_CA", "Whose signatures are believed (PEM); means TLS.")
    ] = None,
    cert: Annotated[Path | None, _file("BEEYARD_CERT", "Your own certificate (PEM).")] = None,
    key: Annotated[Path | None, _file("BEEYARD_KEY", "The key of --cert (PEM).")] = None,
) -> None:
    """LLM inference on your own machines: run it, ask it, look at it."""
    host, _, port = queen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise typer.BadParameter(f"{queen!r} is not HOST:PORT", param_hint="--queen")
    if not (token.isascii() and token.isprintable()):
        raise typer.BadParameter("a token is letters and digits", param_hint="--token")
    try:
        access = Access(token=token, ca=ca, cert=cert, key=key)
    except ValueError:
        words = "--cert and --key belong together, and need --ca"
        raise typer.BadParameter(words, param_hint="--cert") from None
    if not access.is_safe_for(queen):
        words = f"a token is not sent to {queen} without TLS; name the authorities with --ca"
        raise typer.BadParameter(words, param_hint="--token")
    context.obj = Target(queen=queen, access=access)


app.command()(up)
app.command(context_settings=services.PASS_ON, add_help_option=False)(services.queen)
app.command("pool-manager", context_settings=services.PASS_ON, add_help_option=False)(
    services.pool_manager
)
app.command(context_settings=services.PASS_ON, add_help_option=False)(services.worker)
app.command(context_settings=services.PASS_ON, add_help_option=False)(services.gateway)
app.command(context_settings=services.PASS_ON, add_help_option=False)(services.certs)
app.command(context_settings=services.PASS_ON, add_help_option=False)(services.tokens)
app.command()(infer)
app.add_typer(jobs, name="jobs")
app.add_typer(forecast, name="forecast")
app.add_typer(policy, name="policy")
app.add_typer(lease, name="lease")
app.command()(fleet)
app.add_typer(models, name="models")
app.command()(tenants)
app.command()(top)
app.command()(trace)
app.command()(doctor)
app.command(context_settings=services.PASS_ON, add_help_option=False)(services.backup)
app.command(context_settings=services.PASS_ON, add_help_option=False)(services.restore)


def main() -> None:
    """Run the command line of this process and exit with its code."""
    for index, argument in enumerate(sys.argv[1:], start=1):
        # Python keeps bytes that are no text as lone surrogates.
        if any("\udc80" <= one <= "\udcff" for one in argument):
            complain(
                f"argument {index} is not valid UTF-8; convert it, or pass the prompt on stdin"
            )
            sys.exit(USAGE)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows a question mark; the answer does not end there.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app()
