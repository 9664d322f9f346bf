"""Runs the gateway: `python -m beeyard_gateway`."""

import sys

from beeyard_runtime.faults import StartFailed
from beeyard_runtime.lifecycle import report_fault, run_service
from beeyard_runtime.log import setup_log

from beeyard_gateway.app import main
from beeyard_gateway.config import read_settings


def run() -> int:
    """Run until stopped; return the exit code."""
    try:
        settings = read_settings(sys.argv[1:])
    except StartFailed as fault:
        return report_fault("gateway", fault)
    setup_log("gateway", fmt=settings.log_format, level=settings.log_level)
    return run_service(lambda stop: main(stop, settings), "gateway")


if __name__ == "__main__":
    sys.exit(run())
