"""How many workers of each model there should be, as the operator wants it.

What is said at run time goes before what the file says, and that before what holds for every other model. `scaler.py`
acts on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, unique

from beeyard_core import limits
from beeyard_core.ids import ModelName
from beeyard_core.refusal import Refusal, Refused


@unique
class Eviction(Enum):
    """Which idle worker makes room first: the one that was unused for longest, or the one that served fewest jobs."""

    LRU = "lru"
    LFU = "lfu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How many workers of one model there should be.

    Attributes:
        min_workers: So many are kept running, as far as there is room.
        max_workers: There are never more, whoever asks for them. None: nobody said, so operators and policies may ask
            for any number, and the queen by itself starts no second one for a model that is served.
        keep_warm_ms: A worker beyond `min_workers` is stopped once it was unused for so long. None: it stays.
    """

    min_workers: int = 0
    max_workers: int | None = None
    keep_warm_ms: int | None = None

    def fault(self) -> Refused | None:
        """Return what is wrong with it; None: nothing."""
        most = limits.WORKERS_PER_MODEL_MAX
        if not 0 <= self.min_workers <= most:
            return _wrong("min_workers", f"min_workers must be 0 to {most}")
        if self.max_workers is not None and not 1 <= self.max_workers <= most:
            return _wrong("max_workers", f"max_workers must be 1 to {most}")
        if self.max_workers is not None and self.max_workers < self.min_workers:
            return _wrong("max_workers", "max_workers must not be less than min_workers")
        if self.keep_warm_ms is not None and not 0 <= self.keep_warm_ms <= limits.KEEP_WARM_MS_MAX:
            longest = limits.KEEP_WARM_MS_MAX
            return _wrong("keep_warm_ms", f"keep_warm_ms must be 0 to {longest}")
        return None


def _wrong(field_name: str, message: str) -> Refused:
    return Refused(reason=Refusal.INVALID_REQUEST, message=message, field=field_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSettings:
    """What the operator wants of all models.

    Attributes:
        by_model: What is said of single models.
        otherwise: What holds for every other one.
        scale_out_wait_ms: A queue is long when, at the measured pace, its last job would wait for longer than this.
        scale_out_after_ms: So long a queue must have been long before one more worker is started.
        residence_ms: A worker that has been loaded for less makes room only for more urgent work than it served.
        eviction: Which idle worker makes room first.
    """

    by_model: Mapping[ModelName, Scale] = field(default_factory=dict)
    otherwise: Scale = field(default_factory=Scale)
    scale_out_wait_ms: int = limits.SCALE_OUT_WAIT_MS
    scale_out_after_ms: int = limits.SCALE_OUT_AFTER_MS
    residence_ms: int = 0
    eviction: Eviction = Eviction.LRU

    def policy_values(self) -> tuple[tuple[str, str | float | bool], ...]:
        """Return what policies find of it in `context.config`."""
        return (("eviction", self.eviction.value), ("residence_ms", float(self.residence_ms)))


@dataclass(slots=True)
class Scales:
    """What was said at run time, and what is remembered from one tick to the next.

    Attributes:
        by_model: Said at run time, and durable.
        long_since_ms: Since when the queue of a model has been long, on the monotonic clock.
    """

    by_model: dict[ModelName, Scale] = field(default_factory=dict)
    long_since_ms: dict[ModelName, int] = field(default_factory=dict)
