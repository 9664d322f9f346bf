"""The share of the processors in use between two looks.

`psutil.cpu_percent` remembers its last look for each thread, which gives 0 on every fresh thread, and inventory
readings run on fresh threads; so the last look is kept here.
"""

import psutil


class CpuUsage:
    """Remembers the processors' counters of the last look."""

    def __init__(self) -> None:
        self._last = _counters()

    def since_last(self) -> float:
        """Return the share of all processors in use since the last call, or since creation, 0 to 1."""
        busy, total = _counters()
        busy_before, total_before = self._last
        self._last = (busy, total)
        if total <= total_before:
            return 0.0
        return min(1.0, max(0.0, (busy - busy_before) / (total - total_before)))


def _counters() -> tuple[float, float]:
    times = psutil.cpu_times()
    # Guest time is already part of user time on Linux.
    guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    total = sum(times) - guest
    idle = times.idle + getattr(times, "iowait", 0.0)
    return total - idle, total
