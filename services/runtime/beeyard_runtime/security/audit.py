"""The audit trail: who changed what, when, and how it ended, one JSON object a line, only ever appended.

A line is on disk before the caller is told. What cannot be written is complained about in the log, where each entry
stands as well; the change itself has happened by then and is not taken back.
"""

import asyncio
import datetime as dt
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from beeyard_runtime.clock import Clock
from beeyard_runtime.faults import StartFailed
from beeyard_runtime.log import get_log
from beeyard_runtime.security.callers import Caller

_log = get_log("audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line.

    Attributes:
        action: The method, or the command.
        caller: Who.
        peer: From where.
        what: Of the request.
        result: `OK`, or the reason of the refusal.
    """

    action: str
    caller: Caller
    peer: str = ""
    what: Mapping[str, str | int | bool]
    result: str


class AuditTrail:
    """Where entries go: to the log, and to a file if there is one."""

    def __init__(self, path: Path | None, clock: Clock) -> None:
        """Append to `path`; None: to the log only."""
        self._path = path
        self._clock = clock

    def open(self) -> None:
        """See that the file can be written.

        Raises:
            StartFailed: It cannot.
        """
        if self._path is None:
            return
        try:
            _append(self._path, b"")
        except OSError as fault:
            raise StartFailed(
                f"the audit trail {self._path} cannot be written: {fault.strerror}"
            ) from None

    async def note(self, entry: Entry) -> None:
        """Write an entry, and return once it is on disk."""
        line = self._line(entry)
        if self._path is not None:
            await asyncio.to_thread(self._write, line)

    def note_now(self, entry: Entry) -> None:
        """Write an entry at once, for a call that is being cancelled and cannot wait."""
        self._write(self._line(entry))

    def _line(self, entry: Entry) -> bytes:
        moment = dt.datetime.fromtimestamp(self._clock.now().wall_ms / 1_000, dt.UTC)
        caller = entry.caller
        told = {
            "time": moment.isoformat(timespec="milliseconds"),
            "action": entry.action,
            "who": caller.name,
            "token_id": caller.token_id,
            "peer": entry.peer,
            "what": dict(entry.what),
            "result": entry.result,
        }
        _log.info("audit", **{k: v for k, v in told.items() if k != "time" and v})
        return json.dumps(told, ensure_ascii=False).encode() + b"\n"

    def _write(self, line: bytes) -> None:
        if self._path is None:
            return
        try:
            _append(self._path, line)
        except OSError as fault:
            _log.error("audit_failed", fault=fault.strerror)


def _append(path: Path, line: bytes) -> None:
    """Append in one write, which the system does not mix with others', and see it on disk."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    handle = os.open(path, flags, 0o600)
    try:
        if line:
            os.write(handle, line)
            os.fsync(handle)
    finally:
        os.close(handle)
