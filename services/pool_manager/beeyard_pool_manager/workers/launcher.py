"""The ports by which the supervisor runs workers, so that another launcher (a cluster's, say) can stand beside the
local one.
"""

from typing import Protocol

from beeyard_pool_manager.workers.worker_process import EngineReading, RunRecord, WorkerSpec


class LaunchFailed(Exception):
    """The process could not be started, or ended before it listened. The message is for an operator: act on it."""


class WorkerHandle(Protocol):
    """One process, from its start to its end. Usable from one event loop."""

    @property
    def record(self) -> RunRecord:
        """What a successor would need."""

    async def ready(self) -> str:
        """Return the HOST:PORT of its EngineService once it listens. Waits without limit: bound it from outside."""

    async def exited(self) -> int | None:
        """Return the exit code once the process is gone; None where it cannot be known."""

    def signal_stop(self, *, force: bool) -> None:
        """Ask the process to end (SIGTERM), or end it with everything that it started (SIGKILL). Idempotent."""

    def log_tail(self) -> str:
        """Return the last lines of its log."""


class Launcher(Protocol):
    """Starts worker processes and finds those that an earlier pool manager started."""

    async def start(self, spec: WorkerSpec) -> WorkerHandle:
        """Start a process and remember it on disk.

        Raises:
            LaunchFailed: The system refused to run it.
        """

    async def list(self) -> list[WorkerHandle]:
        """Return the processes that earlier pool managers started and that still run; forgets all others."""

    def memory_bytes(self, record: RunRecord) -> int:
        """Return the resident memory of the process in bytes; 0 once it is gone."""

    def forget(self, record: RunRecord) -> None:
        """Remove what a successor would need. The process itself is not touched. Idempotent."""

    def tidy(self, record: RunRecord) -> None:
        """Keep what the process writes within its bound. Cheap; call it now and then."""


class EngineLink(Protocol):
    """Speaks to the EngineService of workers."""

    async def read(self, address: str) -> EngineReading | None:
        """Ask a worker how it is and tell it that it is supervised; None if it does not answer in time."""

    async def drain(self, address: str, *, grace_ms: int) -> bool:
        """Ask a worker to end its work and exit; False if it does not answer in time."""
