"""Which worker a job should run on, as a pure function: what excludes each, when it would end on the others.

This is the specification of `find_best_worker`, by which the platform policy places (`lua/helpers/fitting.lua`, and
its twin in `policy/yard.py`). Those find the same worker by indexes; here every worker is looked at, and everything
that was seen is told. So it explains, and tests compare with it; nothing on the way of a job calls it.

The order: workers of a preferred pool, if one of them can take the job. Then the earliest predicted end. A worker whose
speed is unknown comes after all that are known: nothing is guessed. Then the least loaded, the one whose device has the
most memory free, the smallest id.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from beeyard_core.fleet import Fleet, Worker
from beeyard_core.ids import WorkerId
from beeyard_core.job import JobSpec
from beeyard_core.measuring import tokens_per_s_of
from beeyard_core.placement import CLOSENESS, Exclusion, exclusion
from beeyard_core.refusal import Refusal
from beeyard_core.speeds import PREFILL_SPEEDUP

_NOTHING: Final[Mapping[WorkerId, int]] = MappingProxyType({})
_NO_WAITS: Final[Mapping[WorkerId, float]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """When a job would end on a worker, from now, in milliseconds; all of it from measured speeds.

    Attributes:
        admission_ms: Until a slot is free; 0 if one is, since a worker never queues.
        first_token_ms: From there to the first token: the part of the prompt that is not in the worker's cache.
        decode_ms: From there to the end of the answer.
        answer_tokens: So long the answer is taken to be.
        is_measured: That is what answers of such jobs were found to have; if not, it is the longest that may be.
    """

    admission_ms: float = 0.0
    first_token_ms: float
    decode_ms: float
    answer_tokens: int
    is_measured: bool

    @property
    def end_ms(self) -> float:
        """The predicted end, which is what workers compete by."""
        return self.admission_ms + self.first_token_ms + self.decode_ms


@dataclass(frozen=True, slots=True)
class Candidate:
    """One worker as a trace shows it.

    Attributes:
        worker: The worker.
        exclusion: The first constraint that keeps it from taking the job now; None: it can.
        score: Its predicted end; None: its speed is unknown, or it can never take the job.
        cached_tokens: Tokens of the prompt that are in its cache, as far as is known.
        is_preferred: It is in a pool that the job prefers.
    """

    worker: Worker
    exclusion: Exclusion | None
    score: Score | None = None
    cached_tokens: int = 0
    is_preferred: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementInput:
    """Everything that a placement depends on.

    Attributes:
        spec: The job.
        fleet: Hosts and workers, as they report themselves.
        now_ms: Monotonic time: what is stale takes nothing.
        held: Tokens of the prompt in the workers' caches.
        expected_tokens: Tokens that the answer is expected to have, as measured; 0: unknown, so the most that it may.
        slot_waits: How long it should take until a worker has a slot free, in milliseconds; 0 where that is unknown.
    """

    spec: JobSpec
    fleet: Fleet
    now_ms: int
    held: Mapping[WorkerId, int] = field(default_factory=lambda: _NOTHING)
    expected_tokens: int = 0
    slot_waits: Mapping[WorkerId, float] = field(default_factory=lambda: _NO_WAITS)


@dataclass(frozen=True, slots=True)
class Assigned:
    """A worker for the job. `trace` has every worker, this one first."""

    worker_id: WorkerId
    trace: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class NoCapacity:
    """No worker can take the job now, and what keeps the nearest of them from it."""

    reason: Refusal
    detail: str
    trace: tuple[Candidate, ...]


PlacementDecision = Assigned | NoCapacity


def place(given: PlacementInput) -> PlacementDecision:
    """Return which worker should take a job now, or why none can. Walks the fleet.

    Without capacity the reason is the one that is nearest to a placement: something that passes before something that
    lasts, and of the latter what the contract checks last.
    """
    looked_at = [_look(given, worker) for worker in given.fleet.workers.values()]
    trace = tuple(sorted(looked_at, key=lambda each: _rank(given.fleet, each)))
    if not trace:
        return NoCapacity(Refusal.NO_WORKERS_AVAILABLE, "there is no worker", ())
    first = trace[0]
    if first.exclusion is None:
        return Assigned(first.worker.report.worker_id, trace)
    return NoCapacity(first.exclusion.reason, first.exclusion.detail, trace)


def _look(given: PlacementInput, worker: Worker) -> Candidate:
    spec, fleet = given.spec, given.fleet
    why = exclusion(spec, fleet, worker, given.now_ms)
    cached = min(given.held.get(worker.report.worker_id, 0), spec.prompt_tokens)
    return Candidate(
        worker=worker,
        exclusion=why,
        score=None
        if why is not None and not why.reason.is_transient
        else _score(given, worker, cached),
        cached_tokens=cached,
        is_preferred=worker.report.pool_id in spec.placement.prefer_pool_ids,
    )


def _score(given: PlacementInput, worker: Worker, cached_tokens: int) -> Score | None:
    """Return when the job would end on a worker, or None if nobody measured how fast that is."""
    speed = tokens_per_s_of(given.fleet, worker)
    if not speed:
        return None
    spec = given.spec
    answer_tokens = given.expected_tokens or spec.max_tokens
    wait_ms = given.slot_waits.get(worker.report.worker_id, 0.0)
    speedup = given.fleet.speeds.prefill_speedup(spec.model) or PREFILL_SPEEDUP
    return Score(
        admission_ms=0.0 if worker.slots_free else wait_ms,
        first_token_ms=(spec.prompt_tokens - cached_tokens) / speedup * 1000 / speed,
        decode_ms=answer_tokens * 1000 / speed,
        answer_tokens=answer_tokens,
        is_measured=bool(given.expected_tokens),
    )


_Rank = tuple[int, int, bool, float, float, int, WorkerId]


def _rank(fleet: Fleet, candidate: Candidate) -> _Rank:
    """Return what candidates are sorted by, the best first."""
    worker, why, score = candidate.worker, candidate.exclusion, candidate.score
    is_out = 0 if why is None else 1 if why.reason.is_transient else 2
    lasting = -CLOSENESS.get(why.reason, 0) if why is not None else 0
    end_ms = score.end_ms if score is not None else math.inf
    device = fleet.device_of(worker)
    free_bytes = device.vram_free_bytes if device is not None else 0
    tail = (worker.load, -free_bytes, worker.report.worker_id)
    return (is_out, lasting, not candidate.is_preferred, end_ms, *tail)
