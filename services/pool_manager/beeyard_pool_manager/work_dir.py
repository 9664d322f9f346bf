"""The folder that belongs to one pool manager at a time.

Two pool managers on one folder would adopt and stop each other's workers. The lock is the kernel's: it goes with the
process that holds it, however that ends, so there is no stale lock to clean up.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from beeyard_runtime.lifecycle import StartFailed

_LOCK_NAME = "pool-manager.lock"


@contextmanager
def hold_work_dir(path: Path) -> Iterator[Path]:
    """Make the folder if need be, and hold it until the end of the block.

    Raises:
        StartFailed: It cannot be written, or another pool manager holds it.
    """
    lock_path = path / _LOCK_NAME
    try:
        path.mkdir(parents=True, exist_ok=True)
        # Opened anew and never inherited: a worker that held the lock would keep out every successor.
        lock = lock_path.open("a+b")
    except OSError as error:
        raise StartFailed(
            f"the work folder {path} cannot be written ({error.strerror}); choose another with --work-dir"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartFailed(
                f"another pool manager holds the work folder {path}; stop it, or choose another with --work-dir"
            ) from error
        yield path
