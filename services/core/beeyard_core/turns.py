"""Turns between the sessions of a tenant, so that a session with many jobs does not hold back the others.

Every job gets a place when it joins the queue, and jobs of a tenant that compete (same class, same model) are served by
place, then by age. A session's jobs stand a whole round apart; a session that has nothing waiting joins where the
tenant is being served now. So sessions that wait are served in turn, one job each, whatever order their jobs came in,
and nothing is reordered when a session comes or goes: a place never changes.

With every start the tenant moves on by one step at least, a round being many steps. Otherwise new sessions, each of
which joins at the front, could keep the second job of another waiting for ever. Jobs without a session are one session.

Source: start-time fair queueing (Goyal, Vin, Cheng, 1996), with one job as the unit of service.
"""

from dataclasses import dataclass, field

from beeyard_core import limits

_ROUND = limits.SESSION_ROUND_STEPS
#: The places of fewer sessions are not swept.
_SWEEP_MIN = 64


@dataclass(slots=True)
class Turns:
    """The turns of one tenant in one class and model.

    Attributes:
        now: The place that is being served.
        last: The place of each session's youngest job, and of some whose turn comes at once again.
    """

    now: int = 0
    last: dict[str, int] = field(default_factory=dict)
    _sweep_at: int = _SWEEP_MIN

    def join(self, session_id: str) -> int:
        """Return the place of one more job of a session."""
        before = self.last.get(session_id)
        place = self.now if before is None else max(self.now, before + _ROUND)
        self.last[session_id] = place
        if len(self.last) > self._sweep_at:
            self._sweep()
        return place

    def serve(self, place: int) -> None:
        """A job of this place starts."""
        self.now = max(self.now + 1, place)

    def _sweep(self) -> None:
        """Forget sessions that would join where everybody joins; what waits, and one round, bound what is left."""
        self.last = {one: place for one, place in self.last.items() if place + _ROUND > self.now}
        self._sweep_at = max(2 * len(self.last), _SWEEP_MIN)
