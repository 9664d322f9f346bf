"""Opens the store's file, or says in one sentence why it cannot be used and what to do.

Two queens on one file would both give out leases, so the file is guarded by an exclusive lock on a file beside it. The
lock belongs to the process: it ends with it, however it ends, and the lock file itself stays, because removing one is a
race.

The folder is created if it is missing, and both files can be read by their owner only: they hold prompts.
"""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import apsw

from beeyard_queen.store import sql
from beeyard_queen.store.port import StoreRefused
from beeyard_queen.store.sqlite_faults import refusal_of
from beeyard_queen.store.sqlite_prompts import PAGE_BYTES

# Only the checkpoint and the one reader can be in the writer's way, each for a moment.
_BUSY_TIMEOUT_MS: Final = 5_000
_CACHE_KIB: Final = 65_536
_OWNER_ONLY: Final = 0o600


class StoreLock:
    """The right to use a store's file, held by one process at a time."""

    def __init__(self, path: Path) -> None:
        """Take the lock of the store at `path`.

        Raises:
            StoreRefused: Another process has it, or the folder cannot be written.
        """
        lock_path = path.with_name(path.name + ".lock")
        try:
            self._descriptor: int | None = os.open(lock_path, os.O_RDWR | os.O_CREAT, _OWNER_ONLY)
        except OSError as fault:
            raise _not_writable(path, fault) from fault
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            self.release()
            raise StoreRefused(
                f"the store {path} is in use by another queen (process {holder or 'unknown'}); "
                "stop that one or choose another file with --store"
            ) from fault
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock back; idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def prepare_file(path: Path) -> Path:
    """Make sure that there is a regular file that this process may write; return its real path.

    Raises:
        StoreRefused: There cannot be one.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path = path.resolve()
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise StoreRefused(
                f"the store {path} is {kind}; give --store a file name, such as {path / 'queen.sqlite'}"
                if path.is_dir()
                else f"the store {path} is {kind}; choose another file with --store"
            )
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, _OWNER_ONLY))
        sync_folder(path.parent)
    except OSError as fault:
        raise _not_writable(path, fault) from fault
    return path


def open_writer(path: Path, *, pages_max: int = 0) -> apsw.Connection:
    """Open the one connection that writes, bring the schema up to date and return it.

    Args:
        path: A file that `prepare_file` returned and that this process has locked.
        pages_max: Most pages of 4 KiB that the file may grow to; 0: as the disk allows.

    Raises:
        StoreRefused: The file is not ours, damaged, from a newer version, or cannot be opened.
    """

    def opened() -> apsw.Connection:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            _refuse_strange(connection, path)
            _configure(connection, pages_max)
            _migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    return _or_refuse(opened, path)


def open_reader(path: Path) -> apsw.Connection:
    """Open a connection that only reads; the writer's must be open.

    Raises:
        StoreRefused: The file cannot be opened.
    """

    def opened() -> apsw.Connection:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
        return connection

    return _or_refuse(opened, path)


def _or_refuse(opened: Callable[[], apsw.Connection], path: Path) -> apsw.Connection:
    try:
        return opened()
    except apsw.Error as fault:
        raise refusal_of(fault, path) from fault


def _not_writable(path: Path, fault: OSError) -> StoreRefused:
    return StoreRefused(
        f"the store {path} cannot be written ({fault.strerror}); make its folder writable or choose "
        "another file with --store"
    )


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    # A file whose name is not on disk yet is lost with the power, whatever was synced into it.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _number(connection: apsw.Connection, statement: str) -> int:
    value = connection.execute(statement).get
    assert isinstance(value, int), f"{statement!r} gives a number"
    return value


def owner_fault(connection: apsw.Connection, path: Path) -> str:
    """Return why a database is no store that this version can use; empty if it is one, or is new."""
    owner = _number(connection, "PRAGMA application_id")
    version = _number(connection, "PRAGMA user_version")
    is_new = _number(connection, "SELECT count(*) FROM sqlite_schema") == 0
    if owner != sql.APPLICATION_ID and not (is_new and owner == 0):
        return f"{path} is a database of another program; choose another file with --store"
    if version > len(sql.MIGRATIONS):
        return (
            f"the store {path} was written by a newer Beeyard (schema {version}, this one knows "
            f"{len(sql.MIGRATIONS)}); upgrade Beeyard or choose another file with --store"
        )
    return ""


def _refuse_strange(connection: apsw.Connection, path: Path) -> None:
    if fault := owner_fault(connection, path):
        raise StoreRefused(fault)


def _configure(connection: apsw.Connection, pages_max: int) -> None:
    connection.set_busy_timeout(_BUSY_TIMEOUT_MS)
    # Erased prompts leave zeros behind, not their bytes.
    connection.execute("PRAGMA secure_delete = ON")
    # Takes effect while the file is still empty; the prompts' padding relies on it.
    connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    if pages_max:
        connection.execute(f"PRAGMA max_page_count = {pages_max}")


def _migrate(connection: apsw.Connection) -> None:
    version = _number(connection, "PRAGMA user_version")
    for number, script in enumerate(sql.MIGRATIONS[version:], start=version + 1):
        with connection:
            connection.execute(script)
            connection.execute(f"PRAGMA application_id = {sql.APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number}")
