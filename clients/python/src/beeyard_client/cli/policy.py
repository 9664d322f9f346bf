"""`beeyard policy`: what can be done with a policy on this machine, without asking a queen.

The commands are the queen's own (`python -m beeyard_queen.policy`), because a policy is tried in the sandbox in which
it will run; here they only get the name that people remember.
"""

from typing import Final

import typer

from beeyard_client.cli.services import become

_MODULE: Final = "beeyard_queen.policy"


def policy(context: typer.Context) -> None:
    """Work on a scheduling policy: try, validate, compile; all arguments are its own (try --help after it)."""
    become("queen", _MODULE, context.args)
