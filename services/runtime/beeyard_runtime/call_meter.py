"""How a server's own calls are doing: how long the slowest take, how many break, how many are open.

Counted by the wrapper of every method (`rpc_methods.py`) out of clock readings that it takes anyway. Streams count as
open, and not in the times: how long one lasts says nothing about the server.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from beeyard_core import limits


class _Ended(NamedTuple):
    at_s: float
    took_ms: float
    has_broken: bool


class CallFigures(NamedTuple):
    """What was measured: the time that 19 of 20 calls stayed below, broken ones in percent, open calls."""

    latency_p95_ms: float
    error_percent: float
    calls_inflight: int


@dataclass(slots=True)
class CallMeter:
    """Keeps the last calls of a window, at most so many. Times in seconds of the performance counter."""

    calls_inflight: int = 0
    _ended: deque[_Ended] = field(default_factory=lambda: deque(maxlen=limits.API_CALLS_KEPT_MAX))

    def begin(self) -> None:
        """Count a call that begins."""
        self.calls_inflight += 1

    def end(self, at_s: float, took_ms: float, *, has_broken: bool, is_stream: bool) -> None:
        """Count a call that ended; `has_broken`: by a fault of ours, or past its caller's deadline."""
        self.calls_inflight -= 1
        if not is_stream or has_broken:
            self._ended.append(_Ended(at_s, 0.0 if is_stream else took_ms, has_broken))

    def figures(self, now_s: float) -> CallFigures:
        """Return the figures of the window that ends now. Of too few calls, a broken one says nothing about a rate."""
        while self._ended and now_s - self._ended[0].at_s > limits.API_WINDOW_MS / 1_000:
            self._ended.popleft()
        count = len(self._ended)
        if not count:
            return CallFigures(0.0, 0.0, self.calls_inflight)
        times = sorted(call.took_ms for call in self._ended)
        broken = sum(call.has_broken for call in self._ended)
        return CallFigures(
            latency_p95_ms=times[math.ceil(0.95 * count) - 1],
            error_percent=100.0 * broken / count if count >= limits.API_CALLS_MIN else 0.0,
            calls_inflight=self.calls_inflight,
        )
