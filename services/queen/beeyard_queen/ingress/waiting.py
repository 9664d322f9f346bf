"""What a waiting job waits for, as its client is told: a place in the queue, a worker, or a model that loads.

How far a model is loaded comes on two ways: from its worker's heartbeats, and from what the host last heard of the
process. The second counts as long as the worker is not attached, or lost its stream because loading keeps its
interpreter. A share that nobody knows (an upstream server does not tell) is none: the client hears that the model
loads, and no figure.

A share goes in steps, and the view of all hosts is looked up at most twice in the interval in which a job is told
anything, so that ten thousand followers of one cold model cost what one does.
"""

from dataclasses import dataclass, field

from beeyard.queen.v1 import job_pb2
from beeyard_core import limits
from beeyard_core.fleet import WorkerState
from beeyard_core.ids import ModelName
from beeyard_core.job import Job
from beeyard_core.state import QueenState
from beeyard_runtime.clock import Clock


@dataclass(slots=True)
class Waiting:
    """Tells of waiting jobs."""

    state: QueenState
    clock: Clock
    _reported: dict[ModelName, float] = field(default_factory=dict)
    _looked_at_ms: int = -limits.PROGRESS_INTERVAL_MS

    def progress(self, job: Job) -> job_pb2.JobEvent:
        """Say what a waiting job waits for."""
        queue = self.state.queue
        position = queue.position(job) if job.job_id in queue else 0
        share = None if self._is_served(job.spec.model) else self._loaded_share(job.spec.model)
        progress = job_pb2.JobProgress(position=position)
        if share is not None:
            progress.stage, progress.fraction = "loading_model", share
            progress.message = f"loading the model, {share:.0%}" if share else "loading the model"
        elif job.is_resting:
            progress.stage = "retrying"
            progress.message = f"resting, since {job.attempt} attempts broke"
        elif not self._is_served(job.spec.model):
            progress.stage, progress.message = "queued", "waiting for a worker of this model"
        else:
            progress.stage = "retrying" if job.attempt else "queued"
            progress.message = f"waiting with {position} jobs ahead"
        return job_pb2.JobEvent(job_id=job.job_id, progress=progress)

    def _is_served(self, model: ModelName) -> bool:
        """Whether some worker holds the model and will go on with it."""
        workers = self.state.fleet.workers
        found = (workers[each] for each in self.state.fleet.by_model.get(model, ()))
        return any(
            worker.report.state is not WorkerState.STARTING and not worker.is_drained
            for worker in found
        )

    def _loaded_share(self, model: ModelName) -> float | None:
        """How much of a model is loaded where most of it is, in steps; None: nobody loads it."""
        workers = self.state.fleet.workers
        shares = [
            workers[each].report.load_progress
            for each in self.state.fleet.by_model.get(model, ())
            if workers[each].report.state is WorkerState.STARTING
        ]
        reported = self._shares_of_hosts().get(model)
        if reported is not None:
            shares.append(reported)
        if not shares:
            return None
        steps = limits.LOAD_PROGRESS_STEPS
        return int(max(shares) * steps + 1e-9) / steps

    def _shares_of_hosts(self) -> dict[ModelName, float]:
        """What hosts see of the processes that load, the furthest of each model."""
        now_ms = self.clock.now().mono_ms
        if now_ms - self._looked_at_ms >= limits.PROGRESS_INTERVAL_MS // 2:
            self._looked_at_ms, self._reported = now_ms, {}
            for pool in self.state.fleet.pools.values():
                for process in pool.report.processes:
                    if process.state is WorkerState.STARTING and not process.exited:
                        known = self._reported.get(process.model, 0.0)
                        self._reported[process.model] = max(known, process.load_progress)
        return self._reported
