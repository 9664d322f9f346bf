"""What workers measure, taken in for placement: the speeds in their heartbeats, and the prompts of finished jobs."""

from beeyard_core.fleet import Fleet, Worker
from beeyard_core.ids import ModelName
from beeyard_core.job import Finish
from beeyard_core.lease import Lease
from beeyard_core.speeds import SpeedKind


def _kind_of(fleet: Fleet, worker: Worker) -> SpeedKind:
    report, device = worker.report, fleet.device_of(worker)
    return SpeedKind(report.engine, report.model, device.name if device is not None else "")


def tokens_per_s_of(fleet: Fleet, worker: Worker) -> float:
    """Return the speed of one slot that a worker is placed by; 0: neither it nor one of its kind measured any."""
    own = worker.report.tokens_per_s
    return fleet.speeds.tokens_per_s(own, _kind_of(fleet, worker))


def note_speed(fleet: Fleet, worker: Worker) -> None:
    """Take in the speed that a worker reports; workers of its kind that measured nothing are seen anew by it."""
    speed = worker.report.tokens_per_s
    if speed > 0 and fleet.speeds.note_decode(_kind_of(fleet, worker), speed):
        _see_anew(fleet, worker.report.model)


def note_finish(fleet: Fleet, lease: Lease, finish: Finish) -> None:
    """Take in how long the prompt of a finished job took. Of a later attempt, more than the prompt was computed."""
    worker = fleet.workers[lease.worker_id]
    speed = worker.report.tokens_per_s
    if (
        lease.attempt == 1
        and speed > 0
        and fleet.speeds.note_prefill(
            worker.report.model,
            tokens=finish.prompt_tokens - finish.cached_prompt_tokens,
            prefill_ms=finish.prefill_ms,
            decode_token_ms=1000.0 / speed,
        )
    ):
        _see_anew(fleet, worker.report.model)


def _see_anew(fleet: Fleet, model: ModelName) -> None:
    fleet.touched.update(dict.fromkeys(sorted(fleet.by_model.get(model, ()))))
