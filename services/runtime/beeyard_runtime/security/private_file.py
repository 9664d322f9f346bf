"""Files that only their owner may read, written whole or not at all."""

import os
from pathlib import Path


def write_new(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file that is not there yet.

    Raises:
        FileExistsError: It is.
        OSError: It cannot be written.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    _fill(handle, content)


def replace(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Put a file in the place of what was there; a reader sees the old or the new whole.

    Raises:
        OSError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        _fill(handle, content)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _fill(handle: int, content: bytes) -> None:
    with os.fdopen(handle, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
