"""A wall clock that processes share with nobody else, so that a test can turn it while they run.

The monotonic clock stays the machine's own, as it does when an operator or NTP sets the time of a real machine.
"""

from pathlib import Path

from tests.support.debian_tools import debian_library


class WallClock:
    """The wall clock of every process that is started with `environment`; right until it is turned."""

    def __init__(self, folder: Path) -> None:
        """Keep the clock's deviation in a file in this folder. Skips the test where there is no libfaketime."""
        self._library = debian_library("libfaketime", "faketime/libfaketimeMT.so.1")
        self._file = folder / "wall_clock"
        self.turn(days=0)

    @property
    def environment(self) -> dict[str, str]:
        """What makes a process, and all that it starts, go by this clock."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            # Read at every look at the clock, so that a turn is seen at once.
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Times of files stay true: what is watched is the clock, not the disk.
            "NO_FAKE_STAT": "1",
        }

    def turn(self, *, days: int) -> None:
        """Let the clock be this many days ahead of the true time, from now on."""
        # Replaced as a whole: a process may be reading it.
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{days:+d}d\n")
        fresh.replace(self._file)
