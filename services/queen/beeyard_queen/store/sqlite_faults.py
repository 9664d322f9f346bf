"""Says in the port's words what SQLite means by its errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from beeyard_queen.store.port import BatchInvalid, StoreRefused, StoreUnavailable

# What a disk, or the file on it, can do to a correct statement. Everything else is a bug and passes.
_FAULTS = (
    apsw.FullError,
    apsw.IOError,
    apsw.BusyError,
    apsw.LockedError,
    apsw.ReadOnlyError,
    apsw.CantOpenError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.NoMemError,
    apsw.PermissionsError,
    apsw.ProtocolError,
)


@contextmanager
def store_faults() -> Iterator[None]:
    """Turn SQLite's faults into the port's."""
    try:
        yield
    except _FAULTS as fault:
        raise StoreUnavailable(f"{type(fault).__name__}: {fault}") from fault
    except (apsw.ConstraintError, apsw.MismatchError) as fault:
        raise BatchInvalid(str(fault)) from fault


def refusal_of(fault: apsw.Error, path: Path) -> StoreRefused:
    """Return what to tell the operator when the store cannot be opened because of `fault`."""
    if isinstance(fault, apsw.NotADBError):
        return StoreRefused(
            f"{path} is not a database; choose another file with --store, or move this one away"
        )
    if isinstance(fault, apsw.CorruptError | apsw.SQLError):
        return StoreRefused(
            f"the store {path} is damaged ({fault}); restore it from a backup, or move it away to "
            "start with an empty one"
        )
    return StoreRefused(
        f"the store {path} cannot be opened ({fault}); check its disk and permissions, or choose "
        "another file with --store"
    )
