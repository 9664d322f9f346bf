"""What became of jobs, by tenant, model, class or worker: how many, how well, and how long they waited and took."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import assert_never

from beeyard_core import history_limits
from beeyard_core.history import NEVER, JobRecord
from beeyard_core.job import JobState
from beeyard_core.sketch import Tally


@unique
class GroupBy(Enum):
    """What jobs are told apart by."""

    TENANT = "tenant"
    MODEL = "model"
    PRIORITY = "priority"
    WORKER = "worker"
    DEVICE = "device"


@dataclass(slots=True)
class JobGroup:
    """Some jobs.

    Attributes:
        tokens: Of answers, delivered, whether or not the job completed.
        wait: From acceptance to the first lease, of those that were leased.
        first_token: From acceptance to the first token, of those that had one.
        total: From acceptance to the end, of those that completed.
    """

    jobs: int = 0
    completed: int = 0
    failed: int = 0
    expired: int = 0
    cancelled: int = 0
    attempts: int = 0
    preemptions: int = 0
    tokens: int = 0
    wait: Tally = field(default_factory=Tally)
    first_token: Tally = field(default_factory=Tally)
    total: Tally = field(default_factory=Tally)

    @property
    def success_rate(self) -> float | None:
        """The share that completed of those that somebody still wanted; None if there were none."""
        wanted = self.jobs - self.cancelled
        return self.completed / wanted if wanted else None

    def add(self, record: JobRecord) -> None:
        """Count one job."""
        self.jobs += 1
        self.attempts += record.attempts
        self.preemptions += record.preemptions
        self.tokens += record.answer_tokens
        match record.state:
            case JobState.COMPLETED:
                self.completed += 1
                self.total.add(record.total_ms)
            case JobState.EXPIRED:
                self.expired += 1
            case JobState.CANCELLED:
                self.cancelled += 1
            case _:
                self.failed += 1
        if record.wait_ms != NEVER:
            self.wait.add(record.wait_ms)
        if record.first_token_ms != NEVER:
            self.first_token.add(record.first_token_ms)


@dataclass(slots=True)
class JobStatistics:
    """All jobs, and groups of them by name. Beyond so many groups, whoever comes later is counted in the whole only."""

    by: GroupBy
    everything: JobGroup = field(default_factory=JobGroup)
    groups: dict[str, JobGroup] = field(default_factory=dict)

    def add(self, record: JobRecord) -> None:
        """Count one job."""
        self.everything.add(record)
        name = _name_of(record, self.by)
        group = self.groups.get(name)
        if group is None and len(self.groups) < history_limits.STATISTICS_GROUPS_MAX:
            group = self.groups[name] = JobGroup()
        if group is not None:
            group.add(record)


def statistics_of(records: Iterable[JobRecord], by: GroupBy) -> JobStatistics:
    """Return the statistics of some jobs."""
    statistics = JobStatistics(by)
    for record in records:
        statistics.add(record)
    return statistics


def _name_of(record: JobRecord, by: GroupBy) -> str:
    match by:
        case GroupBy.TENANT:
            return record.tenant_id
        case GroupBy.MODEL:
            return record.model
        case GroupBy.PRIORITY:
            return record.priority.name
        case GroupBy.WORKER:
            return record.worker_id
        case GroupBy.DEVICE:
            return record.device
        case _:
            assert_never(by)
