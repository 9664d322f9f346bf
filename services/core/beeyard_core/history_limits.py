"""The limits of history and forecast; all others are in `limits.py`, which is as long as a file may be."""

from typing import Final

from beeyard_core import limits

# --- History ---
# Ended leases that wait to be saved with the next commit, which is a tick away at most.
ENDED_LEASES_KEPT_MAX: Final = 20_000
assert ENDED_LEASES_KEPT_MAX >= 100 * limits.BATCH_EVENTS_MAX
HISTORY_RETENTION_MS: Final = 90 * 24 * 3_600_000
# Rows of ended jobs, and as many of leases; the oldest go.
HISTORY_ROWS_MAX: Final = 1_000_000
# Rows that one question looks at, the newest first; the answer says if there were more.
HISTORY_READ_ROWS_MAX: Final = 50_000
# Leases that an explanation of one job shows.
ATTEMPTS_KEPT_MAX: Final = 64
# Workers that were not chosen of which is told why, and placements for which that is remembered.
CANDIDATES_PICTURED_MAX: Final = 8
PICTURES_KEPT_MAX: Final = 10_000
# Ended jobs that a starting queen learns from again.
HISTORY_RECALLED_MAX: Final = 10_000
STATISTICS_GROUPS_MAX: Final = 1_000

# --- The forecast ---
# Before so many jobs of a model were measured, nothing is said about the next.
FORECAST_MEASURED_MIN: Final = 5
FORECAST_MODELS_MAX: Final = 1_024
# Sizes of prompts and answers end here.
FORECAST_TOKENS_MAX: Final = 1 << 20
assert FORECAST_TOKENS_MAX >= limits.MAX_TOKENS_LIMIT
# Scores that an interval is made of, and how many there must be before they are trusted.
FORECAST_SCORES_MAX: Final = 512
FORECAST_SCORES_MIN: Final = 40
# Model, class, and whether it had to wait.
FORECAST_KINDS_MAX: Final = 4_096
# Kinds of device for each model of which policies are told, and after how many jobs again.
FORECAST_DEVICES_MAX: Final = 4_096
FORECAST_TOLD_EVERY: Final = 16
# From such a share of the slots on, usual urgent work is a peak, before which background work is held back ...
PEAK_SHARE: Final = 0.75
# ... for so long at most.
HOLD_MS_MAX: Final = 5 * 60_000
assert HOLD_MS_MAX < limits.OVERDUE_AFTER_MS
# How far back the rate of arrivals looks.
FORECAST_WINDOW_MS: Final = 60_000
# Measurements that a quantile remembers, and the range in which values are told apart.
SKETCH_WEIGHT_MAX: Final = 1_024
SKETCH_VALUE_MIN: Final = 2.0**-10
SKETCH_VALUE_MAX: Final = 2.0**40
