"""One reading of both clocks, taken by the shell once for each event and handed to the core."""

from typing import NamedTuple


class Instant(NamedTuple):
    """A moment, on two clocks.

    `mono_ms` counts milliseconds of a clock that never jumps; timers, leases and deadlines use it, so that a change of
    the wall clock expires nothing. `wall_ms` is milliseconds since the Unix epoch; only records for people use it.
    """

    mono_ms: int
    wall_ms: int

    def later(self, ms: int) -> "Instant":
        """Return the moment `ms` milliseconds after this one."""
        return Instant(self.mono_ms + ms, self.wall_ms + ms)
