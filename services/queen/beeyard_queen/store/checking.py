"""Looks a store's file over and says what is wrong and what to do: `beeyard doctor --store`.

The file is only read, and may be in use by a queen meanwhile. What is checked goes beyond SQLite's own view of the
file: that every job that waits can still run, that every answer is whole, and that no lease number can come twice.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import apsw
from beeyard_runtime.finding import Finding

from beeyard_queen.store import sql
from beeyard_queen.store.port import StoreRefused
from beeyard_queen.store.sqlite_faults import refusal_of
from beeyard_queen.store.sqlite_file import owner_fault

_NAMED_MAX: Final = 3
_FREE_BYTES_MIN: Final = 1 << 30
_LOG_BYTES_MAX: Final = 256 << 20
_PROBLEMS_MAX: Final = 10
_RESTORE: Final = "stop the queen and restore a backup with: beeyard restore BACKUP --store FILE"


def check_store(path: Path) -> list[Finding]:
    """Return every finding about the store at `path`; what cannot be opened ends the list early."""
    if not path.is_file():
        message = f"there is no file {path}"
        return [Finding("store", "fail", message, "give the file that the queen uses")]
    findings = list(_about_file(path))
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.Error as fault:
        return [*findings, Finding("store", "fail", str(refusal_of(fault, path)))]
    try:
        connection.set_busy_timeout(5_000)
        findings += _about_content(connection, path)
    except apsw.Error as fault:
        findings.append(Finding("store", "fail", str(refusal_of(fault, path)), _RESTORE))
    finally:
        connection.close()
    return findings


def _about_file(path: Path) -> Iterator[Finding]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        message = f"others may open {path} (mode {mode:o}); it holds prompts"
        yield Finding("permissions", "warn", message, f"chmod 600 {path}")
    free = shutil.disk_usage(path.parent).free
    if free < _FREE_BYTES_MIN:
        message = f"only {free >> 20} MiB are free on its disk"
        yield Finding("disk", "warn", message, "a full disk stops acceptance; make room")
    log = path.with_name(path.name + "-wal")
    if log.exists() and log.stat().st_size > _LOG_BYTES_MAX:
        message = f"the write-ahead log has {log.stat().st_size >> 20} MiB"
        advice = "something reads the store for a very long time, such as a backup that hangs"
        yield Finding("log", "warn", message, advice)
    holder = _holder(path)
    yield Finding("in use", "ok", f"by process {holder}" if holder else "by nobody")


def _holder(path: Path) -> int | None:
    """Return the process that last took the store and still lives."""
    try:
        pid = int(path.with_name(path.name + ".lock").read_text(encoding="ascii"))
        os.kill(pid, 0)
    except (OSError, ValueError):
        return None
    return pid


def _about_content(connection: apsw.Connection, path: Path) -> Iterator[Finding]:
    fault = owner_fault(connection, path)
    if fault:
        yield Finding("schema", "fail", fault)
        return
    version = int(str(connection.execute("PRAGMA user_version").get))
    newest = len(sql.MIGRATIONS)
    known = f"schema {version} of {newest}"
    if version < newest:
        known += "; the next queen brings it up to date"
    yield Finding("schema", "ok", known)
    problems = [
        str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({_PROBLEMS_MAX})")
    ]
    if problems != ["ok"]:
        yield Finding("integrity", "fail", f"damaged: {problems[0]}", _RESTORE)
        return
    yield Finding("integrity", "ok", "every page and index is whole")
    for check in (_jobs, _prompts, _outputs, _epochs):
        yield from check(connection)


def _jobs(connection: apsw.Connection) -> Iterator[Finding]:
    counts = connection.execute("SELECT is_ended, count(*) FROM jobs GROUP BY is_ended")
    found = {bool(is_ended): count for is_ended, count in counts}
    message = f"{found.get(False, 0)} unfinished, {found.get(True, 0)} ended"
    yield Finding("jobs", "ok", message)


def _names(connection: apsw.Connection, statement: str) -> list[str]:
    return [str(row[0]) for row in connection.execute(statement)]


def _told(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED_MAX])
    return f"{len(names)} ({shown}{', ...' if len(names) > _NAMED_MAX else ''})"


def _prompts(connection: apsw.Connection) -> Iterator[Finding]:
    without = _names(
        connection,
        "SELECT job_id FROM jobs WHERE is_ended = 0 "
        "AND NOT EXISTS (SELECT 1 FROM prompts WHERE prompts.sequence = jobs.sequence)",
    )
    if without:
        message = f"unfinished jobs without their request: {_told(without)}"
        advice = "they will fail when a worker gets them; cancel and submit them again"
        yield Finding("requests", "fail", message, advice)
    left = _names(
        connection,
        "SELECT ifnull(job_id, 'unknown') FROM prompts LEFT JOIN jobs USING (sequence) "
        "WHERE job_id IS NULL OR is_ended = 1",
    )
    if left:
        message = f"requests that should have been erased: {_told(left)}"
        yield Finding("requests", "warn", message, "tell the maintainers")
    if not without and not left:
        yield Finding("requests", "ok", "every unfinished job has its own, no other is left")


#: Pieces of an answer that do not begin where the one before ends.
_TORN: Final = """
SELECT DISTINCT ifnull(job_id, 'unknown') FROM (
    SELECT sequence, first_index,
           lag(first_index + count, 1, 0) OVER (PARTITION BY sequence ORDER BY first_index) AS wanted
    FROM tokens
) LEFT JOIN jobs USING (sequence) WHERE first_index <> wanted
"""
_SHORT: Final = """
SELECT job_id FROM jobs WHERE is_ended = 1 AND next_index >
    (SELECT ifnull(sum(count), 0) FROM tokens WHERE tokens.sequence = jobs.sequence)
"""


def _outputs(connection: apsw.Connection) -> Iterator[Finding]:
    torn = _names(connection, _TORN)
    short = _names(connection, _SHORT)
    for what, names in (("answers with a gap or a repeat", torn), ("answers cut short", short)):
        if names:
            yield Finding("answers", "fail", f"{what}: {_told(names)}", _RESTORE)
    if not torn and not short:
        yield Finding("answers", "ok", "every token of every answer is there once")


def _epochs(connection: apsw.Connection) -> Iterator[Finding]:
    tables = [name for name in ("jobs", "work") if _has(connection, name)]
    given = max(
        int(str(connection.execute(f"SELECT ifnull(max(epoch), 0) FROM {name}").get))  # noqa: S608
        for name in tables
    )
    kept = int(str(connection.execute(sql.LAST_EPOCH).get))
    if given > kept:
        message = f"a lease has the epoch {given}, but the counter is at {kept}"
        yield Finding("epochs", "fail", message, _RESTORE)
    else:
        yield Finding("epochs", "ok", f"the last lease was number {kept}")


def _has(connection: apsw.Connection, table: str) -> bool:
    found = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = ?", (table,))
    return bool(found.get)


def refuse_unusable(path: Path) -> None:
    """Raise if SQLite cannot read a file as a store. What is wrong with single jobs is no reason to lose the others.

    Raises:
        StoreRefused: The first fault of the file as a whole, in one line.
    """
    for finding in check_store(path):
        if finding.level == "fail" and finding.check in {"store", "schema", "integrity"}:
            raise StoreRefused(f"{finding.check}: {finding.message}")
