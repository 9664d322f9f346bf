"""What a simulation found: everything that follows from fleet, load, policy and seed, and apart from it what was
measured while it ran.

`Report` is the same, byte for byte, for the same request; `Measured` says how long this machine took and never is.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from beeyard_core.job import Priority

from beeyard_queen.simulator.contention import jain
from beeyard_queen.simulator.ledger import NEVER, Fate, Ledger
from beeyard_queen.simulator.simulation import BEGIN_MS, Simulation
from beeyard_queen.simulator.tally import Tally

#: Digits behind the point of every mean, share and index: enough to compare, and the same on any machine.
_DIGITS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A distribution of virtual times, in milliseconds; all 0 if there were none."""

    n: int
    mean_ms: float
    p50_ms: int
    p90_ms: int
    p95_ms: int
    p99_ms: int
    max_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Some jobs: all, those of a class, a tenant or a model.

    Attributes:
        wait: From arrival to the first lease; to the end of the job, or of the simulation, if there was none. The
            largest is the starvation maximum.
        first_token: From arrival to the first token, of those that had one.
        total: From arrival to the end, of those that completed.
        deadlines: How many had one; `deadlines_met` is the share of them that completed in time, None if none had.
    """

    jobs: int
    completed: int
    refused: int
    failed: int
    expired: int
    cancelled: int
    unfinished: int
    wait: Summary
    first_token: Summary
    total: Summary
    deadlines: int
    deadlines_met: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What follows from a request, and from nothing else.

    Attributes:
        virtual_ms: Virtual time from the first arrival on.
        utilization: Share of the slots that were taken, 0 to 1.
        fairness: Jain's index over `tenant_tokens_per_s`, 0 to 1.
        tenant_tokens_per_s: What each tenant that had to share was granted while it had to.
        requeued: How often a job went back into the queue; `preemptions` of these for a more urgent one.
        digest: Of what became of every job, to compare two runs by.
    """

    policy: str
    seed: int
    virtual_ms: int
    everything: Group
    classes: dict[str, Group]
    tenants: dict[str, Group]
    models: dict[str, Group]
    utilization: float
    fairness: float
    tenant_tokens_per_s: dict[str, float]
    requeued: int
    preemptions: int
    evictions: int
    worker_starts: int
    worker_ends: int
    decisions: dict[str, int]
    dropped: dict[str, int]
    fallbacks: dict[str, int]
    fallback_reasons: dict[str, str]
    suspended_ms: int | None
    suspension: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What this run took on this machine, in real time."""

    wall_s: float
    cpu_s: float
    jobs_per_s: float
    decision_us_p50: float
    decision_us_p99: float
    decision_us_max: float


def summarize(values: Iterable[int]) -> Summary:
    """Return a distribution; a quantile is the value that so many did not exceed."""
    ordered = sorted(values)
    if not ordered:
        return Summary(n=0, mean_ms=0.0, p50_ms=0, p90_ms=0, p95_ms=0, p99_ms=0, max_ms=0)

    def quantile(percent: int) -> int:
        return ordered[max(-(-len(ordered) * percent // 100) - 1, 0)]

    return Summary(
        n=len(ordered),
        mean_ms=round(sum(ordered) / len(ordered), _DIGITS),
        p50_ms=quantile(50),
        p90_ms=quantile(90),
        p95_ms=quantile(95),
        p99_ms=quantile(99),
        max_ms=ordered[-1],
    )


def waits(simulation: Simulation) -> list[int]:
    """Return how long each job waited, by number; NEVER for those that were refused."""
    ledger, found = simulation.ledger, []
    for number, wait_ms in enumerate(ledger.wait_ms):
        if wait_ms != NEVER:
            found.append(wait_ms)
        elif ledger.fate[number] == Fate.REFUSED:
            found.append(NEVER)
        elif ledger.total_ms[number] != NEVER:
            found.append(ledger.total_ms[number])
        else:
            found.append(simulation.now_ms - ledger.at_ms[number])
    return found


def report_of(simulation: Simulation, tally: Tally, *, policy: str, seed: int) -> Report:
    """Return what a simulation that has run found."""
    ledger, counts = simulation.ledger, simulation.counts
    waited = waits(simulation)
    shares = simulation.contention.shares()
    group = _grouping(ledger, waited)
    return Report(
        policy=policy,
        seed=seed,
        virtual_ms=simulation.now_ms,
        everything=group(range(len(ledger))),
        classes={
            priority.name.lower(): group(ledger.numbers(ledger.class_of, priority))
            for priority in Priority
            if priority in ledger.class_of
        },
        tenants=_by_name(ledger.tenants.numbers, ledger.tenant_of, group),
        models=_by_name(ledger.models.numbers, ledger.model_of, group),
        utilization=round(simulation.busy_ms / max(simulation.open_ms, 1), _DIGITS),
        fairness=round(jain(shares.values()), _DIGITS),
        tenant_tokens_per_s={name: round(share, _DIGITS) for name, share in shares.items()},
        requeued=counts.requeued,
        preemptions=tally.applied["preempt"],
        evictions=tally.applied["evict"],
        worker_starts=counts.worker_starts,
        worker_ends=counts.worker_ends,
        decisions=dict(sorted(tally.actions.items())),
        dropped=dict(sorted(tally.dropped.items())),
        fallbacks=dict(sorted(tally.fallbacks.items())),
        fallback_reasons=dict(sorted(tally.reasons.items())),
        suspended_ms=None if tally.suspended_at is None else tally.suspended_at - BEGIN_MS,
        suspension=tally.suspension,
        digest=_digest(ledger),
    )


_Grouping = Callable[[Iterable[int]], Group]


def _by_name(names: dict[str, int], column: Iterable[int], group: _Grouping) -> dict[str, Group]:
    members: dict[int, list[int]] = {number: [] for number in names.values()}
    for job, number in enumerate(column):
        members[number].append(job)
    return {name: group(members[number]) for name, number in sorted(names.items())}


def _grouping(ledger: Ledger, waited: list[int]) -> _Grouping:
    """Return what sums up some jobs, by their numbers."""

    def group(numbers: Iterable[int]) -> Group:
        jobs = list(numbers)
        fates = [ledger.fate[job] for job in jobs]
        timed = [job for job in jobs if ledger.deadline_ms[job] != NEVER]
        met = sum(ledger.fate[job] == Fate.COMPLETED for job in timed)
        firsts = (ledger.first_token_ms[job] for job in jobs)
        return Group(
            jobs=len(jobs),
            completed=fates.count(Fate.COMPLETED),
            refused=fates.count(Fate.REFUSED),
            failed=fates.count(Fate.FAILED),
            expired=fates.count(Fate.EXPIRED),
            cancelled=fates.count(Fate.CANCELLED),
            unfinished=fates.count(Fate.UNFINISHED),
            wait=summarize(waited[job] for job in jobs if waited[job] != NEVER),
            first_token=summarize(first for first in firsts if first != NEVER),
            total=summarize(
                ledger.total_ms[job] for job in jobs if ledger.fate[job] == Fate.COMPLETED
            ),
            deadlines=len(timed),
            deadlines_met=round(met / len(timed), _DIGITS) if timed else None,
        )

    return group


def _digest(ledger: Ledger) -> str:
    """Return a hash of every job's fate and times, the same on any machine."""
    hashed = hashlib.sha256()
    columns = (ledger.fate, ledger.wait_ms, ledger.first_token_ms, ledger.total_ms)
    for row in zip(*columns, strict=True):
        hashed.update(b"%d %d %d %d\n" % row)
    return hashed.hexdigest()


def measured(jobs: int, wall_s: float, cpu_s: float, tally: Tally) -> Measured:
    """Return what a run of so many jobs took."""
    spent = sorted(tally.spent_ns) or [0]

    def quantile_us(part: float) -> float:
        return round(spent[min(int(len(spent) * part), len(spent) - 1)] / 1_000, 1)

    return Measured(
        wall_s=round(wall_s, 3),
        cpu_s=round(cpu_s, 3),
        jobs_per_s=round(jobs / wall_s, 1) if wall_s > 0 else 0.0,
        decision_us_p50=quantile_us(0.5),
        decision_us_p99=quantile_us(0.99),
        decision_us_max=quantile_us(1.0),
    )
