"""The command `beeyard`, put together."""

import sys
from typing import Annotated

import typer

from beeyard_client.cli import services
from beeyard_client.cli.doctor import doctor
from beeyard_client.cli.fleet import fleet, models
from beeyard_client.cli.infer import infer
from beeyard_client.cli.jobs import jobs
from beeyard_client.cli.lease import lease
from beeyard_client.cli.policy import policy
from beeyard_client.cli.printing import complain
from beeyard_client.cli.session import USAGE, Target
from beeyard_client.cli.tenants import tenants
from beeyard_client.cli.trace import trace
from beeyard_client.cli.up import up
from beeyard_client.client import DEFAULT_QUEEN

app = typer.Typer(
    name="beeyard",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="LLM inference on your own machines: run it, ask it, look at it.",
)


@app.callback()
def options(
    context: typer.Context,
    *,
    queen: Annotated[
        str, typer.Option(envvar="BEEYARD_QUEEN", metavar="HOST:PORT", help="The queen to ask.")
    ] = DEFAULT_QUEEN,
) -> None:
    """LLM inference on your own machines: run it, ask it, look at it."""
    host, _, port = queen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise typer.BadParameter(f"{queen!r} is not HOST:PORT", param_hint="--queen")
    context.obj = Target(queen=queen)


app.command()(up)
app.command(context_settings=services.PASS_ON, add_help_option=False)(services.queen)
app.command("pool-manager", context_settings=services.PASS_ON, add_help_option=False)(
    services.pool_manager
)
app.command(context_settings=services.PASS_ON, add_help_option=False)(services.worker)
app.command(context_settings=services.PASS_ON, add_help_option=False)(services.gateway)
app.command()(infer)
app.add_typer(jobs, name="jobs")
app.add_typer(policy, name="policy")
app.add_typer(lease, name="lease")
app.command()(fleet)
app.command()(models)
app.command()(tenants)
app.command()(trace)
app.command()(doctor)


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
