"""The bounded log file of one worker process.

The process holds the file open in append mode and knows nothing of its bound. When the file has grown too large, its
end is kept beside it and the file is cut to nothing; appending goes on at its start. What is written between the copy
and the cut is lost, which a log may do and a pipe, that blocks its writer, may not.
"""

import os
from pathlib import Path

from beeyard_core import limits


def tail(path: Path) -> str:
    """Return the last lines of a log, bounded in lines and bytes; empty if there is none."""
    try:
        with path.open("rb") as source:
            size = source.seek(0, os.SEEK_END)
            source.seek(max(0, size - limits.LOG_TAIL_BYTES))
            text = source.read(limits.LOG_TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-limits.LOG_TAIL_LINES :])


def bound(path: Path, *, bytes_max: int = limits.WORKER_LOG_BYTES_MAX) -> None:
    """Cut the log if it is larger than `bytes_max`; the newer half stays beside it as `NAME.1`."""
    try:
        size = path.stat().st_size
        if size <= bytes_max:
            return
        with path.open("rb") as source:
            source.seek(size - bytes_max // 2)
            kept = source.read(bytes_max // 2)
        path.with_name(path.name + ".1").write_bytes(kept)
        os.truncate(path, 0)
    except OSError:
        # A full or vanished disk must not end supervision; the next call tries again.
        return
