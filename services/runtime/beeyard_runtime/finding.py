"""What a check of files found, as `beeyard doctor` shows it."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `advice` is empty when there is nothing to do."""

    check: str
    level: Level
    message: str
    advice: str = ""
