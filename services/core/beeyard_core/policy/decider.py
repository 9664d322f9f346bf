"""The port that the core asks for decisions through: something that keeps a mirror of the world and decides by it."""

from collections.abc import Sequence
from typing import Protocol

from beeyard_core.policy.changes import Change
from beeyard_core.policy.intent import Intent


class Decider(Protocol):
    """A policy with a mirror of its own. Decides by the mirror, the instant and the seed, and by nothing else."""

    @property
    def label(self) -> str:
        """What decisions are signed with: `name@version`."""

    def take(self, changes: Sequence[Change]) -> None:
        """Bring the mirror up to date."""

    def decide(self, now_ms: int, seed: int = 0) -> Intent:
        """Return one decision.

        Args:
            now_ms: The instant, on the clock of the rows.
            seed: What chance is drawn from.
        """
