"""What a service of a stack has logged, over all its lives: one JSON object a line."""

import json
from collections.abc import Iterator
from pathlib import Path


class ServiceLog:
    """One log file; nothing is read before it is asked for."""

    def __init__(self, path: Path) -> None:
        """Read this file, which need not be there yet."""
        self._path = path

    def entries(self, event: str, **fields: object) -> Iterator[dict[str, object]]:
        """Yield every entry of an event with these fields, oldest first."""
        if not self._path.exists():
            return
        with self._path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                # Most lines are of no interest, and a killed process may have left half of one.
                if event not in line:
                    continue
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if entry.get("event") == event and fields.items() <= entry.items():
                    yield entry

    def count(self, event: str, **fields: object) -> int:
        """Return how often it was logged."""
        return sum(1 for _ in self.entries(event, **fields))


def queen_log(folder: Path) -> ServiceLog:
    """Return the log of all queens of the stack whose folder this is."""
    return ServiceLog(folder / "queen.log")
