"""What became of every job, and how full queue and fleet were meanwhile: figures only, by the number of the job.

Columns of plain numbers, so that a million jobs stay small; what they mean is worked out afterwards in `report.py`.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum, unique
from typing import Final

from beeyard_core import limits
from beeyard_core.ids import ModelName, TenantId
from beeyard_core.job import JobState, Priority

#: A moment that has not come.
NEVER: Final = -1


@unique
class Fate(IntEnum):
    """What became of a job."""

    UNFINISHED = 0
    REFUSED = 1
    COMPLETED = 2
    FAILED = 3
    EXPIRED = 4
    CANCELLED = 5


FATES: Final = {
    JobState.COMPLETED: Fate.COMPLETED,
    JobState.FAILED: Fate.FAILED,
    JobState.EXPIRED: Fate.EXPIRED,
    JobState.CANCELLED: Fate.CANCELLED,
}


@dataclass(slots=True)
class _Names:
    """Numbers for names, in the order in which they came."""

    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, name: str) -> int:
        found = self.numbers.get(name)
        if found is None:
            found = self.numbers[name] = len(self.numbers)
        return found


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the yard.

    Attributes:
        waiting: Jobs that wait, by class.
        busy: Slots that are taken.
        slots: Slots there are.
    """

    at_ms: int
    waiting: tuple[int, int, int, int]
    busy: int
    slots: int


@dataclass(slots=True)
class Ledger:
    """The columns; the number of a job is its place in the order of arrival, from 0.

    Attributes:
        wait_ms: From arrival to the first lease; NEVER if there was none.
        first_token_ms: From arrival to the first token; NEVER if there was none.
        total_ms: From arrival to the end; NEVER if it has not ended.
        deadline_ms: What it had; NEVER if none.
        samples: Looks at the yard, evenly spaced and never more than may be.
    """

    tenants: _Names = field(default_factory=_Names)
    models: _Names = field(default_factory=_Names)
    at_ms: "array[int]" = field(default_factory=lambda: array("q"))
    class_of: "array[int]" = field(default_factory=lambda: array("b"))
    tenant_of: "array[int]" = field(default_factory=lambda: array("h"))
    model_of: "array[int]" = field(default_factory=lambda: array("h"))
    answer: "array[int]" = field(default_factory=lambda: array("l"))
    deadline_ms: "array[int]" = field(default_factory=lambda: array("l"))
    wait_ms: "array[int]" = field(default_factory=lambda: array("q"))
    first_token_ms: "array[int]" = field(default_factory=lambda: array("q"))
    total_ms: "array[int]" = field(default_factory=lambda: array("q"))
    fate: "array[int]" = field(default_factory=lambda: array("b"))
    samples: list[Sample] = field(default_factory=list)
    _stride: int = 1
    _looks: int = 0

    def arrive(
        self,
        at_ms: int,
        priority: Priority,
        tenant: TenantId,
        model: ModelName,
        answer: int,
        deadline_ms: int | None,
    ) -> int:
        """Open a line for a job; return its number."""
        number = len(self.at_ms)
        self.at_ms.append(at_ms)
        self.class_of.append(priority)
        self.tenant_of.append(self.tenants.number(tenant))
        self.model_of.append(self.models.number(model))
        self.answer.append(answer)
        self.deadline_ms.append(NEVER if deadline_ms is None else deadline_ms)
        self.wait_ms.append(NEVER)
        self.first_token_ms.append(NEVER)
        self.total_ms.append(NEVER)
        self.fate.append(Fate.UNFINISHED)
        return number

    def __len__(self) -> int:
        """How many jobs came."""
        return len(self.at_ms)

    def look(self, sample: Sample) -> None:
        """Keep a sample; once there are too many, every other one goes, and from then on fewer are kept."""
        self._looks += 1
        if self._looks % self._stride:
            return
        self.samples.append(sample)
        if len(self.samples) >= limits.SIMULATION_SAMPLES_MAX:
            self.samples = self.samples[1::2]
            self._stride *= 2

    def counted(self, fate: Fate) -> int:
        """How many jobs ended so."""
        return self.fate.count(fate)

    def numbers(self, column: Iterable[int], value: int) -> list[int]:
        """Return the numbers of the jobs that have a value in a column."""
        return [number for number, one in enumerate(column) if one == value]
