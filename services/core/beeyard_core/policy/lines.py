"""The queue of the twin: every waiting job, by class, model, tenant and need, so that a decision reads only heads.

It answers what `lua/mirror` answers to the platform policy, and is written from the same rules, not from that file.
Lists are kept sorted by bisection: the moves are the interpreter's own and cost less than any cleverer structure here.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from beeyard_core.policy.world import CLASSES, RANK, JobRow

Need = tuple[int, int, str, int, str, str, str, str, str, int, str]


def quantised(amount: int) -> int:
    """Return the step that an amount lies in: four steps an octave, so that jobs of like needs share a line."""
    octave = 0
    while amount >= 8:
        amount >>= 1
        octave += 1
    return octave * 4 + amount


def need_of(job: JobRow) -> Need:
    """Return what decides where a job could run, apart from its model."""
    return (
        quantised(job.estimated_vram_bytes // 1_048_576),
        quantised((job.prompt_tokens + job.max_tokens) // 512),
        job.engine,
        job.min_context_tokens,
        job.min_compute_capability,
        job.quantizations,
        job.pin_pool_id,
        job.prefer_pool_ids,
        job.avoid_pool_ids,
        job.min_vram_bytes,
        job.extensions,
    )


Entry = tuple[int, str]
Turn = tuple[int, int, str]
Due = tuple[int, int, str]


def _drop(line: list[Entry], entry: Entry) -> None:
    del line[bisect_left(line, entry)]


def _turn_of(job: JobRow) -> Turn:
    return (job.session_turn, job.seq, job.job_id)


@dataclass(slots=True)
class Group:
    """The jobs of one class and model.

    Attributes:
        line: All of them, oldest first.
        lanes: Tenant -> need -> the jobs by turn of their sessions, as (turn, seq, id).
        deadlines: Tenant -> need -> the jobs with a deadline, the earliest first, as (deadline, seq, id).
    """

    line: list[Entry] = field(default_factory=list)
    lanes: dict[str, dict[Need, list[Turn]]] = field(default_factory=dict)
    deadlines: dict[str, dict[Need, list[Due]]] = field(default_factory=dict)


@dataclass(slots=True)
class Lines:
    """Every waiting job. `waiting` counts the jobs of each tenant; `next_jobs` have waited for too long, by model."""

    jobs: dict[str, JobRow] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    next_jobs: dict[str, list[Entry]] = field(default_factory=dict)
    groups: tuple[dict[str, Group], ...] = field(default_factory=lambda: tuple({} for _ in CLASSES))
    _classes: tuple[list[Entry], ...] = field(default_factory=lambda: tuple([] for _ in CLASSES))

    def add(self, job: JobRow) -> None:
        """Put a job at the place of its sequence; one of the same id goes."""
        self.remove(job.job_id)
        rank, entry = RANK[job.priority], (job.seq, job.job_id)
        self.jobs[job.job_id] = job
        if job.is_next:
            insort(self.next_jobs.setdefault(job.model_ref, []), entry)
        insort(self._classes[rank], entry)
        group = self.groups[rank].setdefault(job.model_ref, Group())
        insort(group.line, entry)
        lane = group.lanes.setdefault(job.tenant_id, {})
        insort(lane.setdefault(need_of(job), []), _turn_of(job))
        if job.deadline_at is not None:
            due = group.deadlines.setdefault(job.tenant_id, {})
            insort(due.setdefault(need_of(job), []), (job.deadline_at, *entry))
        self.waiting[job.tenant_id] = self.waiting.get(job.tenant_id, 0) + 1

    def remove(self, job_id: str) -> None:
        """Take a job out, if it is there."""
        job = self.jobs.pop(job_id, None)
        if job is None:
            return
        rank, entry = RANK[job.priority], (job.seq, job.job_id)
        if job.is_next:
            _drop(self.next_jobs[job.model_ref], entry)
            if not self.next_jobs[job.model_ref]:
                del self.next_jobs[job.model_ref]
        _drop(self._classes[rank], entry)
        group = self.groups[rank][job.model_ref]
        _drop(group.line, entry)
        lane, need = group.lanes[job.tenant_id], need_of(job)
        del lane[need][bisect_left(lane[need], _turn_of(job))]
        if not lane[need]:
            del lane[need]
        if not lane:
            del group.lanes[job.tenant_id]
        if job.deadline_at is not None:
            due = group.deadlines[job.tenant_id]
            del due[need][bisect_left(due[need], (job.deadline_at, *entry))]
            if not due[need]:
                del due[need]
        if not group.line:
            del self.groups[rank][job.model_ref]
        self.waiting[job.tenant_id] -= 1
        if not self.waiting[job.tenant_id]:
            del self.waiting[job.tenant_id]

    def oldest(self, rank: int) -> JobRow | None:
        """The oldest job of a class."""
        line = self._classes[rank]
        return self.jobs[line[0][1]] if line else None

    def of(self, rank: int, model: str) -> Iterator[JobRow]:
        """The jobs of a class and model, oldest first."""
        return (self.jobs[job_id] for _, job_id in self.groups[rank][model].line)

    def heads(self, rank: int, model: str, tenant: str) -> Iterator[tuple[int, JobRow]]:
        """The job of each need of a tenant whose turn it is, in no order, and how far its turn is from the first."""
        group = self.groups[rank].get(model)
        lane = group.lanes.get(tenant) if group else None
        if lane:
            first = min(line[0][0] for line in lane.values())
            for line in lane.values():
                yield line[0][0] - first, self.jobs[line[0][2]]

    def earliest(self, rank: int, model: str, may_start: Callable[[str], bool]) -> Iterator[JobRow]:
        """The job with the earliest deadline of each need of the tenants that may start one."""
        for tenant, lane in self.groups[rank][model].deadlines.items():
            if may_start(tenant):
                yield from (self.jobs[line[0][2]] for line in lane.values())

    def is_wanted(self, model: str) -> bool:
        """Whether any job waits for a model."""
        return any(model in groups for groups in self.groups)
