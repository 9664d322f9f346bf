"""`beeyard queen`, `pool-manager`, `worker`, `gateway`, and what is kept beside them: under the one name that people
remember.

The command becomes the service process, so signals, exit codes and output are the service's own.
"""

import importlib.util
import os
import sys
from typing import Final, NoReturn

import typer

from beeyard_client.cli.printing import complain
from beeyard_client.cli.session import FAILED, finish

# All arguments belong to the service, `--help` too.
PASS_ON: Final = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "help_option_names": [],
}
_SECURITY: Final = "beeyard_runtime.security"
_STORE: Final = "beeyard_queen.store"
MODULES: Final = {
    "queen": "beeyard_queen",
    "pool-manager": "beeyard_pool_manager",
    "worker": "beeyard_worker",
    "gateway": "beeyard_gateway",
}


def queen(context: typer.Context) -> None:
    """Run a queen; all arguments are its own (try --help after it)."""
    become("queen", MODULES["queen"], context.args)


def pool_manager(context: typer.Context) -> None:
    """Run a pool manager; all arguments are its own (try --help after it)."""
    become("pool-manager", MODULES["pool-manager"], context.args)


def worker(context: typer.Context) -> None:
    """Run a worker; all arguments are its own (try --help after it)."""
    become("worker", MODULES["worker"], context.args)


def gateway(context: typer.Context) -> None:
    """Run a gateway; all arguments are its own (try --help after it)."""
    become("gateway", MODULES["gateway"], context.args)


def certs(context: typer.Context) -> None:
    """Make certificates for TLS (try --help after it)."""
    become("queen", _SECURITY, ["certs", *context.args])


def tokens(context: typer.Context) -> None:
    """Make, list and revoke tokens (try --help after it)."""
    become("queen", _SECURITY, ["tokens", *context.args])


def backup(context: typer.Context) -> None:
    """Copy a queen's store while it runs (try --help after it)."""
    become("queen", _STORE, ["backup", *context.args])


def restore(context: typer.Context) -> None:
    """Put a backup of a store back (try --help after it)."""
    become("queen", _STORE, ["restore", *context.args])


def become(role: str, module: str, arguments: list[str]) -> NoReturn:
    """Go on as another program: `python -m module arguments`.

    Args:
        role: Which part of Beeyard it belongs to, for a person who has not installed that.
        module: What to run, of that role's package.
        arguments: All its own.
    """
    if importlib.util.find_spec(MODULES[role]) is None:
        complain(f'the {role} is not installed here; install "beeyard[{role}]"')
        finish(FAILED)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606  no shell is wanted
