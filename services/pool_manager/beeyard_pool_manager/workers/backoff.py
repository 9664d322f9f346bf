"""Keeps a model whose workers crash from being started in a tight loop.

The queen decides that a worker should run; how soon the same model is tried again is decided here, since the crash is
seen here first. A worker that had served for a while is replaced at once; each further failure doubles the
wait, those of workers that were started side by side once.
"""

from dataclasses import dataclass

from beeyard_core import limits
from beeyard_core.instant import Instant

# A streak beyond this adds nothing: the wait is at its maximum.
_STREAK_MAX = 16


@dataclass(frozen=True, slots=True)
class _Streak:
    failures: int = 0
    counted_mono_ms: int = -1
    next_try_mono_ms: int = 0


class RestartBackoff:
    """Waits by model name."""

    def __init__(self) -> None:
        self._streaks: dict[str, _Streak] = {}

    def failed(self, model: str, *, began_mono_ms: int, served_ms: int, now: Instant) -> int:
        """Note that a worker of the model failed.

        Args:
            model: Which model.
            began_mono_ms: When the worker was started; before the last failure that counted, it was of the same try.
            served_ms: How long it had been ready before, milliseconds; 0 if it never was.
            now: This moment.

        Returns:
            How long to wait before the next start, milliseconds.
        """
        if served_ms >= limits.RESTART_BACKOFF_MAX_MS:
            self._streaks[model] = _Streak(next_try_mono_ms=now.mono_ms)
            return 0
        streak = self._streaks.get(model, _Streak())
        failures, counted_mono_ms = streak.failures, streak.counted_mono_ms
        if began_mono_ms >= counted_mono_ms:
            failures, counted_mono_ms = min(_STREAK_MAX, failures + 1), now.mono_ms
        wait_ms = limits.RESTART_BACKOFF_MIN_MS << (failures - 1)
        wait_ms = min(wait_ms, limits.RESTART_BACKOFF_MAX_MS)
        self._streaks[model] = _Streak(failures, counted_mono_ms, now.mono_ms + wait_ms)
        return wait_ms

    def wait_ms(self, model: str, now: Instant) -> int:
        """Return how long a start of the model still has to wait, milliseconds; 0 if it may start now."""
        streak = self._streaks.get(model)
        return max(0, streak.next_try_mono_ms - now.mono_ms) if streak else 0
