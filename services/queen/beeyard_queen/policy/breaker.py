"""When a policy has failed too often to be asked again: a pure state machine that is handed the time.

Kills and failures of the last minute are counted. Three kills, or five failures of any kind, suspend the policy; it
stays suspended until somebody deploys or restores a version, because a policy that fails now and then would otherwise
cost a process again and again.
"""

from dataclasses import dataclass, replace
from enum import Enum, unique

from beeyard_core import limits


@unique
class Mishap(Enum):
    """How a call of a policy went wrong."""

    FAILURE = "failure"
    """It raised an error, or returned something that is no decision."""
    KILL = "kill"
    """It had to be ended, or its process died."""


@dataclass(frozen=True)
class Breaker:
    """What went wrong lately, and whether that was too much.

    Attributes:
        mishaps: The time and kind of each mishap within the window, oldest first.
        suspended: Why the policy is not asked any more; empty while it is.
    """

    mishaps: tuple[tuple[int, Mishap], ...] = ()
    suspended: str = ""

    def after(self, mishap: Mishap, now_ms: int) -> "Breaker":
        """Return what is so after another mishap.

        Args:
            mishap: What happened.
            now_ms: The monotonic clock's milliseconds; never before an earlier call's.
        """
        if self.suspended:
            return self
        since = now_ms - limits.POLICY_BREAKER_WINDOW_MS
        recent = (*(one for one in self.mishaps if one[0] > since), (now_ms, mishap))
        return replace(self, mishaps=recent, suspended=_verdict(recent))


def _verdict(recent: tuple[tuple[int, Mishap], ...]) -> str:
    kills = sum(mishap is Mishap.KILL for _, mishap in recent)
    window_s = limits.POLICY_BREAKER_WINDOW_MS // 1_000
    if kills >= limits.POLICY_KILLS_MAX:
        return f"killed {kills} times in {window_s} s"
    if len(recent) >= limits.POLICY_FAILURES_MAX:
        return f"failed {len(recent)} times in {window_s} s"
    return ""
