"""What the ended jobs of sessions used of their budgets, as it is remembered, and its rows in SQLite.

What unfinished jobs may use is not in it: they are restored themselves, and charged again.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import apsw
from beeyard_core import limits
from beeyard_core.ids import TenantId
from beeyard_core.instant import Instant
from beeyard_core.sessions import SessionKey, Spending

_FORGET: Final = "DELETE FROM session_budgets WHERE used_ms < ?"
_NEWEST: Final = (
    "SELECT tenant_id, session_id, tokens, cost_units, used_ms FROM session_budgets "
    "ORDER BY used_ms DESC, tenant_id, session_id LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class SessionRow:
    """What one session has used; `used_ms` is the wall time at which a job of it last ended."""

    tenant_id: str
    session_id: str
    tokens: int
    cost_units: int
    used_ms: int


def session_row_of(key: SessionKey, spent: Spending, now: Instant) -> SessionRow:
    """Return what is remembered of a session."""
    used_ms = now.wall_ms - (now.mono_ms - spent.used_at_ms)
    return SessionRow(*key, spent.ended_tokens, spent.ended_cost_units, used_ms)


def spendings_of(rows: Iterable[SessionRow], now: Instant) -> dict[SessionKey, Spending]:
    """Return what sessions had used as the core has it, its times on today's monotonic clock, the oldest first."""
    return {
        (TenantId(row.tenant_id), row.session_id): Spending.of_ended(
            row.tokens, row.cost_units, now.mono_ms - max(now.wall_ms - row.used_ms, 0)
        )
        for row in rows
    }


def kept_since_ms(ended_before_ms: int) -> int:
    """Return since when sessions were used that are still remembered when jobs that ended before that are forgotten."""
    return ended_before_ms - limits.SESSION_KEPT_MS


def forget_sessions(connection: apsw.Connection, ended_before_ms: int) -> None:
    """Delete what was idle for so long that it has begun anew long ago."""
    connection.execute(_FORGET, (kept_since_ms(ended_before_ms),))


def newest_sessions(connection: apsw.Connection) -> tuple[SessionRow, ...]:
    """Return as many of the rows as a queen remembers, the longest unused first."""
    rows = [SessionRow(*v) for v in connection.execute(_NEWEST, (limits.SESSIONS_KEPT_MAX,))]
    return tuple(reversed(rows))
