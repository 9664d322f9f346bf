"""`python -m beeyard_runtime.security certs|tokens ...`: what operators keep beside the services."""

import datetime as dt
import sys

from beeyard_runtime.clock import SystemClock
from beeyard_runtime.security import certs_command, inspection, lab_command, tokens_command

COMMANDS = {
    "certs": certs_command.main,
    "tokens": tokens_command.main,
    # For `beeyard up --secure` and `beeyard doctor`, and not for people.
    "lab": lab_command.main,
    "inspect": inspection.main,
}


def main(arguments: list[str]) -> int:
    """Run a command; return the exit code."""
    name = arguments[0] if arguments else ""
    if name not in COMMANDS:
        sys.stderr.write("usage: beeyard certs|tokens ...\n")
        return 2
    now_ms = SystemClock().now().wall_ms
    return COMMANDS[name](arguments[1:], dt.datetime.fromtimestamp(now_ms / 1_000, dt.UTC))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
