"""Two policies on one load: where and for whom they differ.

The jobs of a simulation do not depend on the policy, so each job can be held against itself: the same job, the same
moment, another policy.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from beeyard_core.job import Priority

from beeyard_queen.simulator.ledger import Ledger
from beeyard_queen.simulator.report import Group, Report
from beeyard_queen.simulator.scenario import Result

#: So many single jobs are shown, those whose waits differ most.
_JOBS_SHOWN: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDifference:
    """Some jobs under both policies; differences are the second's minus the first's, in milliseconds.

    Attributes:
        kind: What they have in common: `all`, `class`, `tenant`, `model`, or `class and tenant`.
        waited_longer: How many of them waited longer under the second policy; `waited_less` the opposite.
    """

    kind: str
    name: str
    jobs: int
    wait_mean_ms: tuple[float, float]
    wait_p99_ms: tuple[int, int]
    first_token_p99_ms: tuple[int, int]
    deadlines_met: tuple[float | None, float | None]
    completed: tuple[int, int]
    mean_wait_change_ms: float
    waited_longer: int
    waited_less: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDifference:
    """One job that waited much longer under one of the policies, in milliseconds."""

    job: str
    at_ms: int
    priority: str
    tenant: str
    model: str
    wait_ms: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What a policy does otherwise than another.

    Attributes:
        groups: Those whose mean wait changed most come first.
        jobs: The largest differences of all.
        is_same: Every job fared alike under both.
    """

    first: str
    second: str
    groups: tuple[GroupDifference, ...]
    jobs: tuple[JobDifference, ...]
    is_same: bool


def difference(first: Result, second: Result) -> Difference:
    """Hold two results of one scenario against each other."""
    ledger = first.ledger
    changes = _changes(first, second)
    kinds = (
        ("class", first.report.classes, second.report.classes),
        ("tenant", first.report.tenants, second.report.tenants),
        ("model", first.report.models, second.report.models),
    )
    members = _members(ledger)
    groups = [
        _group(kind, name, (of_first[name], of_second[name]), changes, members[kind, name])
        for kind, of_first, of_second in kinds
        for name in of_first
    ]
    both = first.report.everything, second.report.everything
    everything = _group("all", "all", both, changes, range(len(ledger)))
    groups.sort(key=lambda one: (-abs(one.mean_wait_change_ms), one.kind, one.name))
    return Difference(
        first=first.report.policy,
        second=second.report.policy,
        groups=(everything, *groups),
        jobs=tuple(_largest(first, second, changes)),
        is_same=first.report.digest == second.report.digest,
    )


def _changes(first: Result, second: Result) -> list[int]:
    """How much longer each job waited under the second policy; 0 for one that either refused."""
    return [
        later - earlier if min(earlier, later) >= 0 else 0
        for earlier, later in zip(first.waits, second.waits, strict=True)
    ]


def _members(ledger: Ledger) -> dict[tuple[str, str], list[int]]:
    tenants, models = list(ledger.tenants.numbers), list(ledger.models.numbers)
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for job in range(len(ledger)):
        members["class", Priority(ledger.class_of[job]).name.lower()].append(job)
        members["tenant", tenants[ledger.tenant_of[job]]].append(job)
        members["model", models[ledger.model_of[job]]].append(job)
    return members


def _group(
    kind: str, name: str, both: tuple[Group, Group], changes: list[int], jobs: range | list[int]
) -> GroupDifference:
    first, second = both
    mine = [changes[job] for job in jobs]
    return GroupDifference(
        kind=kind,
        name=name,
        jobs=first.jobs,
        wait_mean_ms=(first.wait.mean_ms, second.wait.mean_ms),
        wait_p99_ms=(first.wait.p99_ms, second.wait.p99_ms),
        first_token_p99_ms=(first.first_token.p99_ms, second.first_token.p99_ms),
        deadlines_met=(first.deadlines_met, second.deadlines_met),
        completed=(first.completed, second.completed),
        mean_wait_change_ms=round(second.wait.mean_ms - first.wait.mean_ms, 4),
        waited_longer=sum(change > 0 for change in mine),
        waited_less=sum(change < 0 for change in mine),
    )


def _largest(first: Result, second: Result, changes: list[int]) -> list[JobDifference]:
    ledger = first.ledger
    tenants, models = list(ledger.tenants.numbers), list(ledger.models.numbers)
    order = sorted(range(len(changes)), key=lambda job: (-abs(changes[job]), job))
    return [
        JobDifference(
            job=f"job-{job}",
            at_ms=ledger.at_ms[job],
            priority=Priority(ledger.class_of[job]).name.lower(),
            tenant=tenants[ledger.tenant_of[job]],
            model=models[ledger.model_of[job]],
            wait_ms=(first.waits[job], second.waits[job]),
        )
        for job in order[:_JOBS_SHOWN]
        if changes[job]
    ]


def sentences(found: Difference, reports: tuple[Report, Report]) -> list[str]:
    """Say in words who is better off, the largest changes first."""
    if found.is_same:
        return [f"{found.second} does to every job exactly what {found.first} does."]
    said = []
    for group in found.groups[1:4]:
        change_ms = group.mean_wait_change_ms
        if not change_ms:
            continue
        word = "longer" if change_ms > 0 else "less"
        before, after = group.wait_p99_ms
        said.append(
            f"Jobs of {group.kind} {group.name} wait {abs(change_ms) / 1_000:.1f} s {word} on average under "
            f"{found.second} (p99 {before / 1_000:.1f} s -> {after / 1_000:.1f} s)."
        )
    first, second = reports
    said.append(
        f"Fairness {first.fairness:.2f} -> {second.fairness:.2f}, "
        f"utilization {first.utilization:.0%} -> {second.utilization:.0%}, "
        f"completed {first.everything.completed} -> {second.everything.completed}."
    )
    return said
