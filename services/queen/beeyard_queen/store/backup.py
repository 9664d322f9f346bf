"""Copies a store while a queen uses it, and puts a copy back.

A backup is one moment of the store: it is read in one transaction, however much is written meanwhile, and nobody
waits for it. A restored store must not give out lease numbers that the lost one gave out after the backup: a worker
that still holds such a lease would pass for the holder of another. So restoring moves the counter far ahead.
"""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from beeyard_queen.store.checking import refuse_unusable
from beeyard_queen.store.port import StoreRefused
from beeyard_queen.store.sqlite_faults import refusal_of
from beeyard_queen.store.sqlite_file import StoreLock, owner_fault, prepare_file, sync_folder

#: Copied in one go, about 4 MiB; between two, progress is told.
_PAGES_A_STEP: Final = 1_024
#: More leases than any queen gives out between two backups.
EPOCHS_SKIPPED: Final = 1 << 32

#: Told how many pages are copied, of how many.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Copied:
    """What was written: where, how much, and how long it took."""

    path: str
    size_bytes: int
    jobs: int
    jobs_unfinished: int
    seconds: float


def backup(store: Path, target: Path, *, replace: bool, progress: Progress) -> Copied:
    """Copy the store as it is at this moment; the copy is checked before it gets its name.

    Args:
        store: The file that a queen may be using.
        target: Where the copy goes.
        replace: Whether a file that is there already may be replaced.
        progress: Told how far it is.

    Raises:
        StoreRefused: There is no store, a file is in the way, or the disk fails; in one line.
    """
    _refuse_existing(target, replace=replace)
    if not store.is_file():
        raise StoreRefused(f"there is no store {store}")
    began = time.monotonic()
    try:
        with _unfinished(target) as fresh:
            _copy(store, fresh, progress)
            refuse_unusable(fresh)
            _publish(fresh, target)
    except apsw.Error as fault:
        raise refusal_of(fault, store) from fault
    except OSError as fault:
        raise StoreRefused(f"{target} cannot be written: {fault.strerror}") from fault
    return _described(target, time.monotonic() - began)


def restore(copy: Path, store: Path, *, replace: bool) -> Copied:
    """Put a backup where a queen will look for its store.

    Args:
        copy: The backup; it stays as it is.
        store: The queen's file. No queen may be using it.
        replace: Whether a store that is there already may be replaced. It is kept beside, as FILE.replaced.

    Raises:
        StoreRefused: The backup is unusable, the store in use or in the way; in one line.
    """
    refuse_unusable(copy)
    began = time.monotonic()
    _refuse_existing(store, replace=replace)
    existed = store.exists()
    store.parent.mkdir(parents=True, exist_ok=True)
    lock = StoreLock(store.resolve())
    try:
        with _unfinished(store) as fresh:
            shutil.copyfile(copy, fresh)
            fresh.chmod(0o600)
            _skip_epochs(fresh)
            if existed:
                _set_aside(store)
            _publish(fresh, store)
    except OSError as fault:
        raise StoreRefused(f"{store} cannot be written: {fault.strerror}") from fault
    finally:
        lock.release()
    return _described(store, time.monotonic() - began)


class _unfinished:  # noqa: N801 - used as a function
    """A file beside `target` that is gone after the block unless it was renamed."""

    def __init__(self, target: Path) -> None:
        self._path = target.with_name(f".{target.name}.{os.getpid()}")

    def __enter__(self) -> Path:
        prepare_file(self._path)
        return self._path

    def __exit__(self, *_: object) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)


def _refuse_existing(path: Path, *, replace: bool) -> None:
    if path.is_dir():
        raise StoreRefused(f"{path} is a folder; give a file name")
    if path.exists() and not replace:
        raise StoreRefused(f"{path} is there already; choose another name or say --replace")


def _copy(store: Path, fresh: Path, progress: Progress) -> None:
    source = apsw.Connection(str(store), flags=apsw.SQLITE_OPEN_READONLY)
    target = apsw.Connection(str(fresh), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        fault = owner_fault(source, store)
        if fault:
            raise StoreRefused(fault)
        source.set_busy_timeout(5_000)
        # Holds this moment of the store until the end, so that writers never make the copy begin anew.
        source.execute("BEGIN; SELECT count(*) FROM counters").fetchall()
        with target.backup("main", source, "main") as copying:
            while not copying.done:
                copying.step(_PAGES_A_STEP)
                progress(copying.page_count - copying.remaining, copying.page_count)
        # One file, with nothing beside it, is what gets moved about.
        target.execute("PRAGMA journal_mode = DELETE").fetchall()
    finally:
        target.close()
        source.close()


def _publish(fresh: Path, target: Path) -> None:
    descriptor = os.open(fresh, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.rename(target)
    sync_folder(target.parent)


def _set_aside(store: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        old = store.with_name(store.name + suffix)
        if old.exists():
            old.rename(store.with_name(store.name + ".replaced" + suffix))


def _skip_epochs(path: Path) -> None:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.execute(
            "UPDATE counters SET value = value + ? WHERE name = 'epoch'", (EPOCHS_SKIPPED,)
        )
    finally:
        connection.close()


def _described(path: Path, seconds: float) -> Copied:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        row = connection.execute(
            "SELECT count(*), ifnull(sum(1 - is_ended), 0) FROM jobs"
        ).fetchone()
    finally:
        connection.close()
    assert row is not None
    jobs, unfinished = row
    assert isinstance(jobs, int)
    assert isinstance(unfinished, int)
    return Copied(str(path), path.stat().st_size, jobs, unfinished, round(seconds, 3))
