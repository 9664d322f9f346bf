"""Where a stack on this machine keeps its files."""

import os
import sys
import tempfile
from pathlib import Path

from beeyard_client.cli.faults import StackFailed


def default_data_dir() -> Path:
    """Return the folder that this platform means for a program's own files."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "beeyard"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "beeyard"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "beeyard"


def prepare(folder: Path) -> None:
    """Make `folder` and prove that it can be written.

    Raises:
        StackFailed: It cannot; says which and what to do.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = (error.strerror or "it cannot be used").lower()
        raise StackFailed(
            f"cannot write to the data folder {folder}: {reason}; choose another with --data-dir"
        ) from error
