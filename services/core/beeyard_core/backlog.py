"""What waits and what runs of each model, in numbers and in work, kept up to date at each change.

Work is what jobs are expected to need of a slot, in milliseconds. It is kept in whole ones: what was added is
taken away again to the last bit, however long the queen runs. A forecast so costs the same whether ten jobs wait or a
hundred thousand.
"""

from dataclasses import dataclass, field

from beeyard_core import history_limits
from beeyard_core.ids import ModelName
from beeyard_core.job import Priority

_CLASSES = len(Priority)


@dataclass(slots=True)
class Arrivals:
    """How much work comes in, as a share of time: that of the last window, and of the part of this one that is over."""

    begun_ms: int = 0
    present: int = 0
    before: int = 0

    def add(self, work_ms: int, now_ms: int) -> None:
        """Count work that came in."""
        self._turn(now_ms)
        self.present += work_ms

    def rate(self, now_ms: int) -> float:
        """Return milliseconds of work that come in each millisecond, which is how many slots they keep busy."""
        self._turn(now_ms)
        window = history_limits.FORECAST_WINDOW_MS
        left = 1.0 - (now_ms - self.begun_ms) / window
        return (self.before * left + self.present) / window

    def _turn(self, now_ms: int) -> None:
        """Begin a new window if this one is over."""
        windows = (now_ms - self.begun_ms) // history_limits.FORECAST_WINDOW_MS
        if windows > 0:
            self.before = self.present if windows == 1 else 0
            self.present = 0
            self.begun_ms += windows * history_limits.FORECAST_WINDOW_MS


@dataclass(slots=True)
class ModelBacklog:
    """The waiting jobs of one model, by class, and how many of its jobs hold a slot.

    Attributes:
        waiting: How many wait.
        work_ms: What those need of whom that is known.
        unknown: Those of whom it is not.
        running: Leases that occupy a slot.
        arrivals: Work that comes in.
    """

    waiting: list[int] = field(default_factory=lambda: [0] * _CLASSES)
    work_ms: list[int] = field(default_factory=lambda: [0] * _CLASSES)
    unknown: list[int] = field(default_factory=lambda: [0] * _CLASSES)
    running: int = 0
    arrivals: list[Arrivals] = field(default_factory=lambda: [Arrivals() for _ in range(_CLASSES)])

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or runs."""
        return not (self.running or any(self.waiting))


@dataclass(slots=True)
class Backlog:
    """Every model's backlog, and the depth of each class over all of them."""

    models: dict[ModelName, ModelBacklog] = field(default_factory=dict)
    depths: list[int] = field(default_factory=lambda: [0] * _CLASSES)

    def of(self, model: ModelName) -> ModelBacklog:
        """Return a model's backlog. The number of models is bounded: one of which nothing is here goes."""
        found = self.models.get(model)
        if found is None:
            if len(self.models) >= history_limits.FORECAST_MODELS_MAX:
                idle = next((m for m, each in self.models.items() if each.is_idle), None)
                if idle is not None:
                    del self.models[idle]
            found = self.models[model] = ModelBacklog()
        return found

    def arrives(self, model: ModelName, priority: Priority, work_ms: int, now_ms: int) -> None:
        """Count work that came in."""
        self.of(model).arrivals[priority - 1].add(work_ms, now_ms)

    def waits(self, model: ModelName, priority: Priority, work_ms: int) -> None:
        """Count a job that joined the queue; `work_ms` is 0 if nobody knows what it needs."""
        backlog, rank = self.of(model), priority - 1
        backlog.waiting[rank] += 1
        self.depths[rank] += 1
        if work_ms:
            backlog.work_ms[rank] += work_ms
        else:
            backlog.unknown[rank] += 1

    def leaves(self, model: ModelName, priority: Priority, work_ms: int) -> None:
        """Count a job out of the queue, with the figure that it was counted in with."""
        backlog, rank = self.of(model), priority - 1
        backlog.waiting[rank] -= 1
        self.depths[rank] -= 1
        if work_ms:
            backlog.work_ms[rank] -= work_ms
        else:
            backlog.unknown[rank] -= 1
