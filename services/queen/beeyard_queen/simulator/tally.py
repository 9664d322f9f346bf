"""What a policy did in a simulation: its intents by action, what was dropped and why, and what each decision cost."""

from array import array
from collections import Counter
from dataclasses import dataclass, field

from beeyard_core.refusal import Refused


@dataclass(slots=True)
class Tally:
    """Counts of decisions.

    Attributes:
        actions: Intents, by action.
        applied: Those of them that changed something or said to wait, by action.
        dropped: Intents that the state did not allow, by reason.
        fallbacks: Decisions that the platform policy made instead, by why.
        reasons: The last words of each kind of fallback, with the policy's line if known.
        suspended_at: The instant at which the circuit breaker gave the policy up; None if it never did.
        suspension: Why.
        spent_ns: Real time of each decision.
    """

    actions: Counter[str] = field(default_factory=Counter)
    applied: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    fallbacks: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)
    suspended_at: int | None = None
    suspension: str = ""
    spent_ns: "array[int]" = field(default_factory=lambda: array("Q"))

    def count(self, action: str, refused: Refused | None) -> None:
        """Count an intent, and why it was dropped if it was."""
        self.actions[action] += 1
        if refused is None:
            self.applied[action] += 1
        else:
            self.dropped[refused.reason.value] += 1
