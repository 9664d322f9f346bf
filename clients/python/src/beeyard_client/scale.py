"""How many workers of a model there should be; without wire types."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How many workers of one model there should be.

    Attributes:
        min_workers: So many are kept running, as far as there is room.
        max_workers: There are never more. None: any number may be asked for, and the queen by itself starts no second.
        keep_warm_ms: A worker beyond `min_workers` is stopped once it was unused for so long. None: it stays.
    """

    min_workers: int = 0
    max_workers: int | None = None
    keep_warm_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelScale:
    """What is wanted of one model, and what there is.

    Attributes:
        source: `DEFAULT`, `FILE` or `RUN_TIME`; empty if the queen knows another.
    """

    model: str
    scale: Scale
    source: str
    workers_ready: int
    workers_starting: int
    jobs_queued: int
