"""The file by which a pool manager's successor finds a worker that is running already."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from beeyard_runtime.lifecycle import StartFailed

from beeyard_worker.status import Identity


@contextlib.contextmanager
def state_file(path: Path | None, identity: Identity, address: str) -> Iterator[None]:
    """Keep the file at `path` while the block runs; nothing if there is no path.

    It appears whole, once the worker listens, and is gone after an orderly end; after a crash it stays,
    and whoever finds it must check that the process is the one that wrote it.

    Args:
        path: Where; its folder must exist.
        identity: Who the worker is.
        address: HOST:PORT of its EngineService.

    Raises:
        StartFailed: The file cannot be written.
    """
    if path is None:
        yield
        return
    record = {
        "worker_id": identity.worker_id,
        "pid": os.getpid(),
        "address": address,
        "model": identity.model,
        "engine": identity.engine,
        "incarnation": identity.incarnation,
    }
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(json.dumps(record) + "\n", encoding="utf-8")
        fresh.replace(path)
    except OSError as fault:
        raise StartFailed(f"the state file {path} cannot be written: {fault.strerror}") from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
