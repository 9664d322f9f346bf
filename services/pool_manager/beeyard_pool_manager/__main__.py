import sys

from beeyard_runtime.lifecycle import StartFailed, report_fault, run_service

from beeyard_pool_manager.app import main
from beeyard_pool_manager.config import read_settings

if __name__ == "__main__":
    try:
        settings = read_settings(sys.argv[1:])
    except StartFailed as fault:
        sys.exit(report_fault("pool-manager", fault))
    sys.exit(run_service(lambda stop: main(stop, settings), "pool-manager"))
