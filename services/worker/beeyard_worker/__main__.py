import sys

from beeyard_runtime.lifecycle import StartFailed, Stop, report_fault, run_service

from beeyard_worker.app import main
from beeyard_worker.config import settings_from


def run() -> int:
    """Run a worker until it has drained; return the exit code."""
    try:
        settings = settings_from(sys.argv[1:])
    except StartFailed as fault:
        return report_fault("worker", fault)

    async def serve(stop: Stop) -> None:
        await main(stop, settings)

    return run_service(serve, "worker")


if __name__ == "__main__":
    sys.exit(run())
