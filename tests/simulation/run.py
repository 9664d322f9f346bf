"""Lets a story happen: faults at their times, a look after every turn, and in the end a world that comes to rest."""

import gc
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from tests.simulation.cluster import Cluster
from tests.simulation.customers import Customer
from tests.simulation.disk import Disk
from tests.simulation.ledger import Ledger
from tests.simulation.network import Network
from tests.simulation.outside import Seam, exchanged
from tests.simulation.story import Fault, FaultKind, Story, story_of
from tests.simulation.world import US_PER_MS, Broken, Process, World

#: After the last fault every accepted job ends within this time: attempts wait for leases to expire (10 s) and for
#: processes to be restarted, and a client looks for its job for a minute.
REST_WITHIN_MS: Final = 150_000
_AUDIT_WITHIN_MS: Final = 30_000


@dataclass
class Run:
    """What became of one seed.

    Attributes:
        broken: What did not hold; empty if all did.
        lines: The transcript.
    """

    seed: int
    broken: str = ""
    lines: list[str] = field(default_factory=list)
    steps: int = 0
    virtual_ms: int = 0
    accepted: int = 0
    completed: int = 0
    tokens: int = 0
    chores: int = 0
    faults: int = 0
    stale_writes: int = 0

    @property
    def summary(self) -> str:
        """One line."""
        return (
            f"seed {self.seed}: {self.broken or 'all held'}; {self.steps} turns, {self.virtual_ms} ms, "
            f"{self.faults} faults, {self.accepted} accepted, {self.completed} completed, {self.tokens} tokens"
        )


def run_seed(seed: int, mutation: Sequence[Seam] = (), *, trace: bool = False) -> Run:
    """Let the story of a seed happen and return what became of it."""
    return run_story(story_of(seed), mutation, trace=trace)


def run_story(
    story: Story, mutation: Sequence[Seam] = (), *, trace: bool = False, steps: bool = False
) -> Run:
    """Let a story happen and return what became of it.

    Args:
        story: What is to happen.
        mutation: A planted bug.
        trace: Whether the transcript has what the services log.
        steps: Whether it has every turn of every process.
    """
    run = Run(story.seed, faults=len(story.faults))
    world = World(story.seed)
    stage = _Stage(story, world, run)
    if steps:
        world.after_turn.append(lambda process: stage.note(f"turn of {process.name}"))
    hooks = sys.get_asyncgen_hooks()
    was_collecting = gc.isenabled()
    gc.disable()  # when rubbish is found depends on everything that ran before in this process
    try:
        with exchanged([*stage.cluster.seams(), *mutation]), _logs_to(stage, trace=trace):
            sys.set_asyncgen_hooks(firstiter=None, finalizer=stage.close_generator)
            try:
                stage.play()
            except Broken as fault:
                run.broken = str(fault)
                stage.note(f"BROKEN: {fault}")
            stage.tell()
            stage.dispose()
    finally:
        sys.set_asyncgen_hooks(*hooks)
        if was_collecting:
            gc.enable()
    return run


class _Stage:
    """One story while it happens."""

    def __init__(self, story: Story, world: World, run: Run) -> None:
        self.story, self.world, self.run = story, world, run
        self.disk = Disk()
        self.ledger = Ledger(self.disk, world.breaks, {ask.request_id: ask for ask in story.asks})
        self.network = Network(world, window_bytes=story.window_bytes, repeats=story.repeats)
        self.cluster = Cluster(story, world, self.network, self.disk, self.ledger, self.note)
        self._is_over = False

    def note(self, line: str) -> None:
        """Add a line to the transcript."""
        self.run.lines.append(f"{self.world.now_us / 1_000:12.3f} {line}")

    def close_generator(self, generator: Any) -> None:
        """Close an asynchronous generator that was dropped, in the process that dropped it."""
        process = self.world.current
        if process is not None and process.is_alive:
            process.loop.call_soon(process.loop.create_task, generator.aclose())

    # --- The play ---

    def play(self) -> None:
        """Begin, break things, heal them, and see that all comes to rest.

        Raises:
            Broken: Something did not hold.
        """
        self.world.after_turn.append(self.ledger.look)
        self.cluster.begin()
        for fault in self.story.faults:
            self.world.at(fault.at_ms * US_PER_MS, lambda fault=fault: self._strike(fault))  # type: ignore[misc]
        calm_ms = self.story.calm_ms
        self.world.run_until(lambda: False, calm_ms)
        limit_ms = calm_ms + REST_WITHIN_MS
        if not self.world.run_until(self._is_at_rest, limit_ms):
            self.world.breaks(
                f"not at rest {REST_WITHIN_MS} ms after the last fault: {self._unrest()}"
            )
        auditor = self.cluster.audit()
        self.world.run_until(lambda: auditor.is_done, self.world.now_ms + _AUDIT_WITHIN_MS)
        self._judge(auditor.endings)

    def _is_at_rest(self) -> bool:
        return not self._unrest(quick=True)

    def _unrest(self, *, quick: bool = False) -> list[str]:
        """Return what is not over yet."""
        found = [c.name for c in self.cluster.customers.values() if not c.is_served]
        if found and quick:
            return found
        found += [job for job in self.ledger.accepted if job not in self.ledger.ended]
        queen = self.cluster.running.get("queen")
        if queen is None or "queen" not in queen.parts:
            return [*found, "queen"]
        found += _held_by(queen)
        for process in self.world.processes:
            worker = process.parts.get("worker")
            if worker is not None and not worker._leases.is_idle:
                found.append(process.name)
        return found

    def _judge(self, endings: dict[str, str]) -> None:
        """Hold against each other what was promised and what came of it."""
        for customer in self.cluster.customers.values():
            if isinstance(customer, Customer):
                self._judge_outcomes(customer)
        for work_id, chore in self.ledger.accepted_work.items():
            work = self.disk.work.get(work_id)
            if work is None or work.state != "completed":
                self.world.breaks(f"{chore.request_id}: {work_id} is {work and work.state}")
            self.run.chores += 1
        for job_id, ask in self.ledger.accepted.items():
            row = self.disk.jobs.get(job_id)
            if row is None:
                self.world.breaks(f"{ask.request_id}: {job_id} was accepted and is lost")
            self.run.accepted += 1
            self.run.completed += row.state == "completed"
            if row.state == "cancelled" and ask.request_id not in self.ledger.cancelled:
                self.world.breaks(f"{ask.request_id} was cancelled by nobody")
            if row.state == "expired" and not ask.deadline_ms:
                self.world.breaks(f"{ask.request_id} expired without a deadline")
            if row.state == "failed":
                self.world.breaks(f"{ask.request_id} failed: {row.result}")
            ending = endings.get(job_id)
            if ending is None or ending == "ended without a word":
                self.world.breaks(f"{ask.request_id}: {job_id} cannot be read: {ending}")

    def _judge_outcomes(self, customer: Customer) -> None:
        """No outage lasts as long as a client's patience with a job that was accepted."""
        accepted = {ask.request_id for ask in self.ledger.accepted.values()}
        for ask in customer.asks:
            outcome = customer.outcomes[ask.request_id]
            has_excuse = ask.deadline_ms or ask.cancel_after is not None
            if ask.request_id in accepted and outcome.startswith("error") and not has_excuse:
                self.world.breaks(f"{customer.name} lost {ask.request_id}: {outcome}")

    # --- Faults ---

    def _strike(self, fault: Fault) -> None:
        self.note(f"fault {fault.kind} {fault.target} {fault.ms}")
        match fault.kind:
            case FaultKind.SLOW_NETWORK:
                self._for_a_while(
                    self.network, "slow_us", min(fault.ms, 2_000) * US_PER_MS, fault.ms, 0
                )
            case FaultKind.SLOW_DISK:
                self._for_a_while(self.disk, "slow_ms", min(fault.ms, 2_000), fault.ms, 0)
            case FaultKind.FULL_DISK:
                self._for_a_while(self.disk, "is_full", True, fault.ms, False)
            case FaultKind.BROKEN_DISK:
                self._for_a_while(self.disk, "is_broken", True, fault.ms, False)
            case FaultKind.LOST_HOST | FaultKind.KILLED_YOUNG:
                self._strike_machine(fault)
            case _:
                process = self._target(fault.target)
                if process is not None:
                    self._strike_process(fault, process)

    def _target(self, name: str) -> Process | None:
        if name != "a hosted worker":
            return self.cluster.running.get(name)
        hosted = [run.process for m in self.cluster.machines.values() for run in m.alive]
        return self.world.chance.choice(hosted) if hosted else None

    def _strike_machine(self, fault: Fault) -> None:
        cluster = self.cluster
        if not cluster.machines:
            return
        name = self.world.chance.choice(sorted(cluster.machines))
        if fault.kind is FaultKind.LOST_HOST:
            cluster.lose(name)
            return
        cluster.deadly.add(name)
        for run in cluster.machines[name].alive:
            cluster.kill(run.process)
        self.world.at(fault.ms * US_PER_MS, lambda: cluster.deadly.discard(name))

    def _strike_process(self, fault: Fault, process: Process) -> None:
        match fault.kind:
            case FaultKind.KILL:
                self.cluster.kill(process)
            case FaultKind.POWER_LOSS:
                self.cluster.kill(process, silently=True)
            case FaultKind.TERMINATE:
                process.loop.call_soon(process.ask_to_stop)
            case FaultKind.STOP | FaultKind.SUSPEND:
                self._stop(process, fault)
            case FaultKind.CUT | FaultKind.CUT_ONE_WAY:
                self._cut(process, fault)
            case FaultKind.BREAK:
                for connection in list(self.network.connections):
                    if process in connection.is_up:
                        connection.drop(connection.client)
                        connection.drop(connection.server)
            case FaultKind.WALL_JUMP:
                self.world.jump_wall(process.host, fault.ms)
            case _:
                raise AssertionError(fault)

    def _stop(self, process: Process, fault: Fault) -> None:
        process.stop(suspend=fault.kind is FaultKind.SUSPEND)
        self.network.look_again()

        def go_on() -> None:
            self.note(f"{process.name} goes on")
            process.go_on()
            self.network.look_again()

        self.world.at(fault.ms * US_PER_MS, go_on)

    def _cut(self, process: Process, fault: Fault) -> None:
        """Cut a process off from the queen; the queen off from everybody."""
        others = {p.host for p in self.world.processes if p.host != process.host}
        far = sorted(others) if process.name == "queen" else ["queen"]
        ways = [(process.host, host) for host in far]
        if fault.kind is FaultKind.CUT:
            ways += [(host, process.host) for host in far]
        elif self.world.chance.random() < 0.5:
            ways = [(receiver, sender) for sender, receiver in ways]
        heals = [self.network.cut(*way) for way in ways]

        def heal() -> None:
            self.note(f"healed {process.name}")
            for one in heals:
                one()

        self.world.at(fault.ms * US_PER_MS, heal)

    def _for_a_while(
        self, owner: object, name: str, value: object, ms: int, normal: object
    ) -> None:
        setattr(owner, name, value)
        self.world.at(ms * US_PER_MS, lambda: setattr(owner, name, normal))

    # --- Its end ---

    def tell(self) -> None:
        """Add up."""
        run = self.run
        run.steps, run.virtual_ms = self.world.steps, self.world.now_ms
        run.tokens = self.ledger.tokens_seen
        run.stale_writes = self.ledger.stale_writes
        self._is_over = True

    def dispose(self) -> None:
        """Let go of everything."""
        self.world.after_turn.clear()
        self.world.dispose()


def _held_by(process: Process) -> list[str]:
    """Return what a queen still holds of jobs that have ended, and who waits for it."""
    queen = process.parts["queen"]
    state = queen.loop.state
    return [
        *state.leases,
        *(f"feed {job_id}" for job_id in queen._feeds.by_job),
        *(f"submitter of {job_id}" for job_id in queen._answers.submitters),
        *(f"canceller of {job_id}" for job_id in queen._answers.cancellers),
        *(f"prompt of {job_id}" for job_id in queen._actor.prompts._held),
        *(f"unsaved prompt of {job_id}" for job_id in queen._actor.prompts._unsaved),
    ]


class _logs_to:  # noqa: N801 - used like a function
    """Takes the services' log lines: errors are bugs unless a fault of the story explains them."""

    def __init__(self, stage: _Stage, *, trace: bool) -> None:
        self._stage, self._trace = stage, trace
        self._before: dict[str, Any] = {}

    def __enter__(self) -> None:
        self._before = structlog.get_config()
        structlog.configure(
            processors=[self._take],
            wrapper_class=structlog.make_filtering_bound_logger(
                logging.DEBUG if self._trace else logging.ERROR
            ),
            logger_factory=structlog.PrintLoggerFactory(),
            cache_logger_on_first_use=False,
        )

    def __exit__(self, *fault: object) -> None:
        structlog.configure(**self._before)

    def _take(self, _logger: object, level: str, event: Any) -> Any:
        stage = self._stage
        process = stage.world.current
        if not stage._is_over:
            said = " ".join(
                f"{k}={v}" for k, v in sorted(event.items()) if k not in ("event", "exc_info")
            )
            name = process.name if process is not None else "?"
            if self._trace:
                stage.note(f"  {name} {level} {event['event']} {said}")
            if level in ("error", "exception", "critical") and event["event"] not in _EXPECTED:
                stage.world.breaks(
                    f"{name} logged {event['event']} {said} {event.get('exc_info')!r}"
                )
        raise structlog.DropEvent


#: What services rightly call an error when a disk fails.
_EXPECTED: Final = frozenset({"store_unavailable", "stopped_before_the_store_healed"})
