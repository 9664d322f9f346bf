"""Let a policy decide until it says that there is nothing to do.

Whoever drives the core (the queen's writer loop, the simulator, a test) calls this after `step`: the mirror is brought
up to date, the policy is asked, its intent is checked and applied, and so on. One policy that proposes the impossible
cannot hold the loop: an intent that is dropped changes nothing, so the same question would get the same answer, and
the round ends until something changes or some time has passed.
"""

from dataclasses import dataclass

from beeyard_core import limits
from beeyard_core.effect import Effect
from beeyard_core.instant import Instant
from beeyard_core.policy.apply import apply
from beeyard_core.policy.decider import Decider
from beeyard_core.policy.intent import Intent, Wait
from beeyard_core.policy.projection import Projection
from beeyard_core.refusal import Refused
from beeyard_core.state import QueenState

#: Multiplied with the version of the state it gives each decision a seed of its own (the golden ratio, 63 bits).
_SEED_STEP = 0x1E3779B97F4A7C15
_SEED_MASK = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """One decision and what became of it.

    Attributes:
        state_version: The version of the state that the policy saw.
        seed: What its chance was drawn from.
        intent: What it wanted.
        refused: Why that was dropped; None: it was applied.
    """

    state_version: int
    seed: int
    intent: Intent
    refused: Refused | None


def seed_of(state_version: int) -> int:
    """Return the seed of the decision on a version of the state, 0 to 2^63 - 1."""
    return state_version * _SEED_STEP & _SEED_MASK


def is_due(state: QueenState, now: Instant) -> bool:
    """Whether the policy asked to be asked again by now."""
    return state.ask_at_ms is not None and now.mono_ms >= state.ask_at_ms


def schedule(
    state: QueenState,
    projection: Projection,
    decider: Decider,
    now: Instant,
    effects: list[Effect],
    *,
    is_fallback: bool = False,
) -> list[Outcome]:
    """Decide on everything that changed, at most `DECISIONS_PER_ROUND_MAX` times.

    Args:
        state: The queen's memory.
        projection: What the decider's mirror was told; nobody else drains it.
        decider: The policy.
        now: The moment.
        effects: What the shell must do is added here.
        is_fallback: The decider stands in for a policy that failed.

    Returns:
        The decisions, in order. Whether more is to be decided says `is_due`.
    """
    outcomes: list[Outcome] = []
    is_first = True
    while len(outcomes) < limits.DECISIONS_PER_ROUND_MAX:
        changes = projection.drain(state, now.mono_ms)
        if not changes and is_first and not is_due(state, now):
            return outcomes
        is_first, state.ask_at_ms = False, None
        decider.take(changes)
        if state.is_draining:
            return outcomes
        if projection.is_behind:
            break
        seed = seed_of(projection.version)
        intent = decider.decide(now.mono_ms, seed)
        refused = apply(state, intent, now, effects, label=decider.label, is_fallback=is_fallback)
        outcomes.append(Outcome(projection.version, seed, intent, refused))
        if refused is not None:
            state.ask_at_ms = now.mono_ms + limits.POLICY_RETRY_MS
        if isinstance(intent, Wait) or refused is not None:
            return outcomes
    # More is waiting to be decided, or to be told; the next round must come even if nothing else happens.
    state.ask_at_ms = now.mono_ms
    return outcomes
