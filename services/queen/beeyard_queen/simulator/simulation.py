"""The run itself: the core's `step`, driven by simulated clients, hosts and workers in virtual time.

Everything that falls on one millisecond is one batch, as it would be in the queen's loop: every event of it is stepped,
then the policy is asked until it waits, then the effects are performed; and what they bring about at once, such as a
worker's acceptance, is stepped before time goes on. Nothing here draws by chance or reads a clock.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import ceil
from typing import Any, Final

from beeyard_core import limits
from beeyard_core.effect import (
    Accept,
    AnnounceEnded,
    AnnounceRequeued,
    DrainWorker,
    Effect,
    Offer,
    Refuse,
    Revoke,
    SendDesired,
)
from beeyard_core.event import (
    Event,
    FirstTokenArrived,
    JobSubmitted,
    LeaseFinished,
    LeaseStopped,
    OfferAccepted,
    OfferRefused,
    Ticked,
    WorkerAttached,
    WorkerDetached,
    WorkerReported,
)
from beeyard_core.fleet import WorkerState
from beeyard_core.ids import Epoch, JobId, LeaseId, WorkerId
from beeyard_core.instant import Instant
from beeyard_core.job import Finish, Job
from beeyard_core.refusal import Refusal
from beeyard_core.state import QueenState, Settings
from beeyard_core.step import step

from beeyard_queen.simulator.arrivals import Arrival
from beeyard_queen.simulator.contention import Contention
from beeyard_queen.simulator.fleet import SimulatedFleet
from beeyard_queen.simulator.hosts import Host, Process
from beeyard_queen.simulator.ledger import FATES, NEVER, Fate, Ledger, Sample

#: The core's clocks begin here, and not at 0, which it reads as "never" in places. Any constant would do.
BEGIN_MS: Final = 1_000_000
_WALL_MS: Final = 1_700_000_000_000

_BEGIN: Final = Instant(BEGIN_MS, _WALL_MS)

_TOO_LONG: Final = Refusal.NO_CAPACITY_INCOMPATIBLE_CONTEXT

#: Asks a policy until it waits, and applies what it decides; appends effects.
Place = Callable[[QueenState, Instant, list[Effect]], None]


@dataclass(slots=True)
class _Generation:
    """One attempt under way on a simulated worker. Times in virtual milliseconds."""

    number: int
    lease_id: LeaseId
    epoch: Epoch
    process: Process
    first_at: int
    token_ms: float
    tokens_before: int
    tokens_left: int
    prefill_ms: int
    is_over: bool = False

    def tokens_at(self, now_ms: int) -> int:
        """Return how many tokens it has made by then."""
        if now_ms < self.first_at:
            return 0
        made = 1 + int((now_ms - self.first_at) / self.token_ms)
        return min(made, self.tokens_left)


@dataclass(slots=True)
class Counts:
    """How often what happened, apart from what became of jobs."""

    events: int = 0
    batches: int = 0
    requeued: int = 0
    worker_starts: int = 0
    worker_ends: int = 0
    revoked: int = 0


@dataclass(slots=True)
class Simulation:
    """A queen's core in a simulated yard. Make it, call `run` once, and read `ledger`, `counts` and the rest."""

    fleet: SimulatedFleet
    place: Place
    state: QueenState = field(default_factory=lambda: QueenState(settings=Settings()))
    ledger: Ledger = field(default_factory=Ledger)
    contention: Contention = field(default_factory=Contention)
    counts: Counts = field(default_factory=Counts)
    #: Told of every job that has ended.
    on_ended: Callable[[Job], None] | None = None
    #: Virtual milliseconds since the start, and slot-milliseconds that were taken, and that there were.
    now_ms: int = 0
    busy_ms: int = 0
    open_ms: int = 0
    _now: Instant = _BEGIN
    _hosts: dict[str, Host] = field(default_factory=dict)
    _processes: dict[WorkerId, Process] = field(default_factory=dict)
    _running: dict[LeaseId, _Generation] = field(default_factory=dict)
    _tokens_done: dict[int, int] = field(default_factory=dict)
    _agenda: list[tuple[int, int, Callable[[Any], None], Any]] = field(default_factory=list)
    _effects: list[Effect] = field(default_factory=list)
    _acts: dict[type, Callable[[Any], None]] = field(default_factory=dict)
    _busy: int = 0
    _slots: int = 0
    _order: int = 0
    _sessions: int = 0
    _ended: int = 0
    _moved_ms: int = 0
    _coming: Arrival | None = None

    def __post_init__(self) -> None:
        self._acts = {
            Accept: self._accepted,
            Refuse: self._refused,
            Offer: self._offered,
            Revoke: self._revoked,
            AnnounceEnded: self._announced_ended,
            AnnounceRequeued: self._announced_requeued,
            SendDesired: self._desired,
            DrainWorker: self._drained,
        }

    # --- The run ---

    def run(
        self, arrivals: Iterator[Arrival], progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Simulate until every job has ended, or none will.

        Args:
            arrivals: The jobs, in the order of time.
            progress: Called with jobs ended and virtual milliseconds at each beat.
        """
        with _without_collector():
            self._open()
            self._coming = next(arrivals, None)
            while self._is_going_on():
                self._turn(arrivals)
                if progress is not None and not self.now_ms % self.fleet.report_ms:
                    progress(self._ended, self.now_ms)

    def _open(self) -> None:
        for pool in self.fleet.pools:
            host = self._hosts[pool.pool_id] = Host(pool, self.fleet)
            for worker in pool.workers:
                process = host.start(worker.worker_id, worker.model, worker.device)
                assert process is not None, "the fleet was checked when it was read"
                self._processes[worker.worker_id] = process
                self._loaded(process)
        self._beat(None)
        self._tick(None)
        self._settle()

    def _is_going_on(self) -> bool:
        if self._coming is None:
            if self._ended >= len(self.ledger):
                return False
            if self.now_ms - self._moved_ms > limits.SIMULATION_STALL_MS:
                return False
        return self.now_ms <= limits.SIMULATED_MS_MAX

    def _turn(self, arrivals: Iterator[Arrival]) -> None:
        """Go on to the next moment at which something happens, and take all of it in."""
        agenda, coming = self._agenda, self._coming
        at_ms = agenda[0][0]
        if coming is not None and coming.at_ms < at_ms:
            at_ms = coming.at_ms
        self._go_on_to(at_ms)
        while agenda and agenda[0][0] == at_ms:
            _, _, happen, what = heappop(agenda)
            happen(what)
        while coming is not None and coming.at_ms <= at_ms:
            self._arrive(coming)
            coming = next(arrivals, None)
        self._coming = coming
        self._settle()

    def _go_on_to(self, at_ms: int) -> None:
        span_ms = at_ms - self.now_ms
        self.busy_ms += self._busy * span_ms
        self.open_ms += self._slots * span_ms
        self.now_ms = at_ms
        self._now = Instant(BEGIN_MS + at_ms, _WALL_MS + at_ms)

    def _settle(self) -> None:
        """Ask the policy, then perform every effect and what it brings about at this moment."""
        self.counts.batches += 1
        effects, acts = self._effects, self._acts
        while True:
            self.place(self.state, self._now, effects)
            if not effects:
                return
            # Performing one may append others: a worker takes an offer at once.
            for effect in effects:
                act = acts.get(type(effect))
                if act is not None:
                    act(effect)
            effects.clear()

    def _feed(self, event: Event) -> None:
        self.counts.events += 1
        self._effects += step(self.state, event, self._now)

    def _at(self, at_ms: int, happen: Callable[[Any], None], what: object) -> None:
        self._order += 1
        heappush(self._agenda, (at_ms, self._order, happen, what))

    # --- Clients ---

    def _arrive(self, arrival: Arrival) -> None:
        spec = arrival.spec
        number = self.ledger.arrive(
            self.now_ms,
            spec.priority,
            spec.tenant_id,
            spec.model,
            arrival.answer_tokens,
            spec.deadline_ms,
        )
        self._feed(JobSubmitted(job_id=JobId(f"job-{number}"), spec=spec))

    def _accepted(self, effect: Accept) -> None:
        self.contention.waits(self.state.jobs[effect.job_id].spec.tenant_id)

    def _refused(self, effect: Refuse) -> None:
        self._close(_number(effect.job_id), Fate.REFUSED)

    def _announced_requeued(self, effect: AnnounceRequeued) -> None:
        self.counts.requeued += 1
        self.contention.waits(self.state.jobs[effect.job_id].spec.tenant_id)

    def _announced_ended(self, effect: AnnounceEnded) -> None:
        job = self.state.jobs[effect.job_id]
        number = _number(effect.job_id)
        if self.ledger.wait_ms[number] == NEVER:
            self.contention.leaves(job.spec.tenant_id)
        self._close(number, FATES[job.state])
        if self.on_ended is not None:
            self.on_ended(job)

    def _close(self, number: int, fate: Fate) -> None:
        ledger = self.ledger
        assert ledger.fate[number] == Fate.UNFINISHED, "a job ends once"
        ledger.fate[number] = fate
        ledger.total_ms[number] = self.now_ms - ledger.at_ms[number]
        self._tokens_done.pop(number, None)
        self._ended += 1
        self._moved_ms = self.now_ms

    # --- Workers ---

    def _offered(self, effect: Offer) -> None:
        """A worker takes an offer at once, and knows when its tokens will come."""
        lease = self.state.leases.get(effect.lease_id)
        if lease is None or not lease.is_current:
            return  # taken back in the same batch
        process = self._processes[effect.worker_id]
        spec = self.state.jobs[lease.job_id].spec
        if spec.kv_tokens > process.model.context_tokens:
            # The queen only estimates a prompt; the worker counts, as a real one would.
            self._feed(OfferRefused(effect.worker_id, effect.lease_id, lease.epoch, _TOO_LONG))
            return
        number = _number(lease.job_id)
        ledger, model = self.ledger, process.model
        done = self._tokens_done.get(number, 0)
        tokens_left = max(ledger.answer[number] - done, 1)
        if ledger.wait_ms[number] == NEVER:
            ledger.wait_ms[number] = self.now_ms - ledger.at_ms[number]
        self.contention.is_served(spec.tenant_id, spec.prompt_tokens + tokens_left)
        self._moved_ms = self.now_ms
        process.held += 1
        self._busy += 1
        assert process.held <= model.slots, "no worker has more leases than slots"
        # What was generated before is read again with the prompt.
        prefill_ms = max(ceil((spec.prompt_tokens + done) * 1_000 / model.prefill_tokens_per_s), 1)
        generation = _Generation(
            number,
            effect.lease_id,
            lease.epoch,
            process,
            self.now_ms + prefill_ms,
            1_000 / model.tokens_per_s,
            done,
            tokens_left,
            prefill_ms,
        )
        self._running[effect.lease_id] = generation
        self._feed(OfferAccepted(effect.worker_id, effect.lease_id, lease.epoch))
        self._at(generation.first_at, self._first_token, generation)

    def _first_token(self, generation: _Generation) -> None:
        if generation.is_over:
            return
        ledger, number = self.ledger, generation.number
        if ledger.first_token_ms[number] == NEVER:
            ledger.first_token_ms[number] = self.now_ms - ledger.at_ms[number]
        self._feed(
            FirstTokenArrived(generation.process.worker_id, generation.lease_id, generation.epoch)
        )
        rest_ms = ceil((generation.tokens_left - 1) * generation.token_ms)
        self._at(self.now_ms + rest_ms, self._finished, generation)

    def _finished(self, generation: _Generation) -> None:
        if generation.is_over:
            return
        tokens = generation.tokens_before + generation.tokens_left
        finish = Finish(
            reason="stop",
            prompt_tokens=0,
            prefill_ms=generation.prefill_ms,
            decode_ms=self.now_ms - generation.first_at,
        )
        self._release(generation)
        self._feed(
            LeaseFinished(
                generation.process.worker_id,
                generation.lease_id,
                generation.epoch,
                tokens,
                finish,
            )
        )
        self._end_if_drained(generation.process)

    def _revoked(self, effect: Revoke) -> None:
        """A worker hears of a revocation, and stops at its next token."""
        generation = self._running.get(effect.lease_id)
        if generation is None or generation.is_over:
            return
        self.counts.revoked += 1
        generation.is_over = True
        made = generation.tokens_at(self.now_ms)
        self._tokens_done[generation.number] = generation.tokens_before + made
        self._at(self.now_ms + ceil(generation.token_ms), self._stopped, generation)

    def _stopped(self, generation: _Generation) -> None:
        self._release(generation)
        self._feed(
            LeaseStopped(generation.process.worker_id, generation.lease_id, generation.epoch)
        )
        self._end_if_drained(generation.process)

    def _release(self, generation: _Generation) -> None:
        generation.is_over = True
        del self._running[generation.lease_id]
        generation.process.held -= 1
        self._busy -= 1

    # --- Hosts ---

    def _desired(self, effect: SendDesired) -> None:
        """A host starts what is missing where there is room, and ends what is not wanted any more."""
        host = self._hosts[effect.pool_id]
        for wanted in host.missing(effect.workers):
            model = self.fleet.models[wanted.model]
            process = host.start(wanted.worker_id, model, wanted.device)
            if process is not None:
                self.counts.worker_starts += 1
                self._processes[process.worker_id] = process
                self._at(self.now_ms + process.model.load_ms, self._loaded, process)
        for process in host.unwanted(effect.workers):
            self._drain(process)
        if host.is_changed:
            self._feed(host.reported())

    def _loaded(self, process: Process) -> None:
        if process.worker_id not in self._processes or process.state is not WorkerState.STARTING:
            return
        self._sessions += 1
        process.session = self._sessions
        self._slots += process.model.slots
        self._moved_ms = self.now_ms
        report = process.become(WorkerState.READY)
        self._feed(WorkerAttached(session=process.session, report=report, incarnation="simulated"))

    def _drained(self, effect: DrainWorker) -> None:
        process = self._processes.get(effect.worker_id)
        if process is not None:
            self._drain(process)

    def _drain(self, process: Process) -> None:
        """A worker takes nothing new, and ends when it has nothing left to do."""
        if process.state is WorkerState.DRAINING:
            return
        report = process.become(WorkerState.DRAINING)
        if process.session:
            self._feed(WorkerReported(session=process.session, report=report))
        self._end_if_drained(process)

    def _end_if_drained(self, process: Process) -> None:
        if process.held or process.state is not WorkerState.DRAINING:
            return
        if self._processes.pop(process.worker_id, None) is None:
            return
        self.counts.worker_ends += 1
        if process.session:
            self._slots -= process.model.slots
            self._feed(WorkerDetached(process.worker_id, process.session))
        process.host.end(process)
        self._feed(process.host.reported())

    def _beat(self, _: None) -> None:
        """Every host and worker reports."""
        for host in self._hosts.values():
            self._feed(host.reported())
        for process in self._processes.values():
            if process.session and process.report is not None:
                self._feed(WorkerReported(session=process.session, report=process.report))
        self.contention.look(self.now_ms)
        self._sample()
        self._at(self.now_ms + self.fleet.report_ms, self._beat, None)

    def _sample(self) -> None:
        interactive, normal, batch, background = self.state.queue.depths()
        waiting = (interactive, normal, batch, background)
        self.ledger.look(Sample(self.now_ms, waiting, self._busy, self._slots))

    def _tick(self, _: None) -> None:
        self._feed(Ticked())
        self._at(self.now_ms + limits.TICK_INTERVAL_MS, self._tick, None)


def _number(job_id: JobId) -> int:
    """Return the number of a job of ours."""
    return int(job_id[4:])


@contextmanager
def _without_collector() -> Iterator[None]:
    """Switch the collector off: nothing here makes cycles, and its walks would cost a tenth of the run."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
