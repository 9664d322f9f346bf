import os
import resource
import sys
import time

from beeyard_core import limits
from beeyard_runtime.faults import StartFailed
from beeyard_runtime.log import setup_log

from beeyard_queen.policy.faults import PolicyInvalid
from beeyard_queen.policy.host_process import HostGone
from beeyard_queen.simulator.request import (
    Faulted,
    Progressed,
    Told,
    decode_request,
    encode_told,
    reported,
)
from beeyard_queen.simulator.scenario import simulate
from beeyard_queen.simulator.shapes import ScenarioInvalid


def main() -> None:
    """Simulate what stands on the input; tell it on the output."""
    setup_log("simulator", fmt="json", level="error")
    _step_back()
    text = sys.stdin.buffer.read(limits.SIMULATION_REQUEST_BYTES_MAX)
    try:
        scenario, chosen = decode_request(text)
        _tell(reported(simulate(scenario, chosen, _Progress())))
    except ScenarioInvalid as fault:
        _tell(Faulted("scenario", str(fault), fault.line, fault.column))
    except PolicyInvalid as invalid:
        _tell(Faulted("policy", invalid.message, invalid.line or 0, invalid.column or 0))
    except (StartFailed, HostGone) as fault:
        _tell(Faulted("sandbox", str(fault)))


def _step_back() -> None:
    """Let the queen go first, and end by force what takes too much."""
    os.nice(10)
    resource.setrlimit(resource.RLIMIT_CPU, (limits.SIMULATION_CPU_S_MAX,) * 2)
    resource.setrlimit(resource.RLIMIT_DATA, (limits.SIMULATION_MEMORY_BYTES_MAX,) * 2)


def _tell(told: Told) -> None:
    sys.stdout.buffer.write(encode_told(told))
    sys.stdout.buffer.flush()


class _Progress:
    """Tells how far it is, now and then."""

    def __init__(self) -> None:
        self._next_s = 0.0

    def __call__(self, ended: int, total: int, virtual_ms: int) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + limits.SIMULATION_PROGRESS_MS / 1_000
            _tell(Progressed(ended, total, virtual_ms))


if __name__ == "__main__":
    main()
