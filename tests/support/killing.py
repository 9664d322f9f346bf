"""Ending the process of one worker of a stack, the one that holds a certain job."""

import os
import signal

from tests.support.stack import Stack


async def kill_worker(stack: Stack, worker_id: str) -> None:
    """Send SIGKILL to a worker of this stack, once its pool manager has told which process it is."""
    fleet = await stack.wait_for(
        lambda fleet: any(w.pid and w.status.worker_id == worker_id for w in fleet.workers),
        f"the pool manager reports the process of {worker_id}",
    )
    pid = next(w.pid for w in fleet.workers if w.status.worker_id == worker_id)
    os.kill(pid, signal.SIGKILL)
