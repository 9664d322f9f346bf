"""`python -m beeyard_queen.policy COMMAND ...`: what can be done with a policy without a queen."""

import sys
from collections.abc import Callable

from beeyard_runtime.log import setup_log

from beeyard_queen.policy import (
    compile_command,
    replay_command,
    source_command,
    templates_command,
    try_command,
    validate_command,
)
from beeyard_queen.simulator import commands as simulator_commands

# What each does with its arguments, returning an exit code, and a line about it.
COMMANDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "compile": (compile_command.main, "show the Lua of a YAML policy, or its JSON Schema"),
    "diff": (simulator_commands.diff, "try policies on one load and say where they differ"),
    "simulate": (simulator_commands.simulate, "try a policy on a simulated fleet, in virtual time"),
    "replay": (replay_command.main, "make the decisions of a journal again"),
    "source": (source_command.main, "print the platform policy"),
    "templates": (templates_command.main, "show policies to start from"),
    "try": (try_command.main, "run one decision in a real sandbox"),
    "validate": (validate_command.main, "try a policy in many worlds"),
}


def main(arguments: list[str]) -> int:
    """Run a command; return the exit code."""
    name = arguments[0] if arguments else "--help"
    if name in {"-h", "--help"}:
        sys.stdout.write(_overview())
        return 0 if arguments else 2
    if name not in COMMANDS:
        sys.stderr.write(f"beeyard policy: there is no command {name!r}\n{_overview()}")
        return 2
    # A command says by itself how a policy did; what a queen would log about it is noise here.
    setup_log("policy", fmt="console", level="error")
    run, _ = COMMANDS[name]
    return run(arguments[1:])


def _overview() -> str:
    lines = [f"  {name:10} {told}" for name, (_, told) in sorted(COMMANDS.items())]
    return "usage: beeyard policy COMMAND ...\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
