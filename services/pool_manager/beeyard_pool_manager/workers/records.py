"""One small JSON file for each running worker, so that a successor pool manager finds what its predecessor started.

A record is written to a temporary name and moved into place, so a reader sees the whole of it or nothing. A record
that cannot be read is removed: it would only hide that nobody knows the process. So is the draft of one that a
predecessor was killed over, for nobody would ever move it into place.
"""

import dataclasses
import hashlib
import os
import re
from pathlib import Path
from typing import Final

from beeyard_runtime.log import get_log
from pydantic import TypeAdapter, ValidationError

from beeyard_pool_manager.workers.worker_process import RunRecord

_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_DRAFT: Final = ".draft"
_SCHEMA: Final = TypeAdapter(RunRecord)
_log = get_log("records")


def file_stem(worker_id: str) -> str:
    """Return a file name without suffix for a worker's id, whatever characters a queen may put into one."""
    if _PLAIN_NAME.fullmatch(worker_id):
        return worker_id
    digest = hashlib.sha256(worker_id.encode()).hexdigest()[:16]
    return re.sub(r"[^A-Za-z0-9_-]", "_", worker_id)[:64] + "~" + digest


class RecordFolder:
    """The records of one work folder.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, record: RunRecord) -> None:
        """Put the record on disk, whole or not at all."""
        target = self._path(record.spec.worker_id)
        draft = target.with_suffix(_DRAFT)
        with draft.open("wb") as sink:
            sink.write(_SCHEMA.dump_json(record, indent=1))
            sink.flush()
            os.fsync(sink.fileno())
        draft.replace(target)

    def read_all(self) -> list[RunRecord]:
        """Return every readable record, by worker id; removes those that are not, and drafts.

        For a pool manager that begins: afterwards a draft may be one that is being written.
        """
        for draft in self._folder.glob(f"*{_DRAFT}"):
            draft.unlink(missing_ok=True)
        records: list[RunRecord] = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                records.append(_SCHEMA.validate_json(path.read_bytes()))
            except (OSError, ValidationError) as error:
                _log.warning("record_unreadable", record=path.name, error=type(error).__name__)
                path.unlink(missing_ok=True)
        return records

    def remove(self, record: RunRecord) -> None:
        """Remove the record of this very process. One that a later process of the same id wrote stays."""
        path = self._path(record.spec.worker_id)
        try:
            found = _SCHEMA.validate_json(path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, ValidationError):
            found = record
        if dataclasses.replace(found, spec=record.spec) != record:
            return
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            # A successor finds out by itself that the process is gone; this must not end supervision.
            _log.warning("record_not_removed", record=path.name, error=error.strerror)

    def _path(self, worker_id: str) -> Path:
        return self._folder / f"{file_stem(worker_id)}.json"
