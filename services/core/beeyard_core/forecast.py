"""When a waiting job will start, from measured service times only.

A figure that nothing was measured for is 0, which means "unknown", never a guess. The estimate is Little's law with the
mean service time of the model's last jobs (exponentially weighted): jobs ahead, times mean service, over slots.
"""

from dataclasses import dataclass, field

from beeyard_core import limits
from beeyard_core.fleet import Fleet
from beeyard_core.ids import ModelName

#: Weight of the newest measurement. One in eight forgets a change of load within some dozens of jobs.
_WEIGHT = 0.125


@dataclass(slots=True)
class Forecast:
    """Measured service times in milliseconds, by model."""

    service_ms: dict[ModelName, float] = field(default_factory=dict)

    def observe(self, model: ModelName, service_ms: float) -> None:
        """Take in how long one job of a model held its slot."""
        mean = self.service_ms.get(model)
        fresh = service_ms if mean is None else mean + _WEIGHT * (service_ms - mean)
        self.service_ms[model] = fresh

    def start_ms(self, model: ModelName, ahead: int, fleet: Fleet) -> int:
        """Predict when a job with `ahead` jobs before it starts, in milliseconds from now; 0: at once, or unknown."""
        if model in fleet.open_workers and ahead == 0:
            return 0
        slots = fleet.slots_total.get(model, 0)
        mean = self.service_ms.get(model, 0.0)
        return int((ahead + 1) * mean / slots) if slots else 0

    def retry_after_ms(self, model: ModelName, queued: int, fleet: Fleet) -> int:
        """Predict when a queue that is full now has room again, in milliseconds, at least one retry delay."""
        return max(self.start_ms(model, max(queued // 10, 1), fleet), limits.RETRY_DELAY_MS)
