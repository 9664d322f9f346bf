"""How often somebody may do something: one bucket each, for as many as are remembered."""

import math
from collections import OrderedDict
from dataclasses import dataclass


@dataclass(slots=True)
class _Bucket:
    level: float
    filled_at_ms: int


class Rates:
    """Buckets by name; the one that was used longest ago is forgotten first, and starts full when it comes back."""

    def __init__(self, *, most: int) -> None:
        """Remember `most` names."""
        self._most = most
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, name: str, *, per_second: float, burst: float, now_ms: int) -> int:
        """Take one.

        Args:
            name: Whose bucket.
            per_second: How fast it fills.
            burst: How much it holds.
            now_ms: The monotonic clock, milliseconds.

        Returns:
            0 if there was one, else the milliseconds until there is.
        """
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= self._most:
                self._buckets.popitem(last=False)
            bucket = self._buckets[name] = _Bucket(burst, now_ms)
        self._buckets.move_to_end(name)
        gained = (now_ms - bucket.filled_at_ms) * per_second / 1_000
        bucket.level, bucket.filled_at_ms = min(bucket.level + gained, burst), now_ms
        if bucket.level >= 1.0:
            bucket.level -= 1.0
            return 0
        return max(1, math.ceil((1.0 - bucket.level) * 1_000 / per_second))
