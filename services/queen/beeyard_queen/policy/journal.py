"""The decision journal: all that each decision depended on, so that it can be repeated elsewhere and must be equal.

The writer loop notes what the mirrors are told and records what is decided; both only put an entry into a list. A
thread packs and writes them, a few hundred at once. The journal is bounded: after `file_bytes_max` another file begins,
with the world as it is then, and the oldest file goes. It is not what makes jobs durable, and it never holds up a
decision: if the disk is too slow or full, entries are dropped, and the next file begins as soon as one can be written.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from beeyard_core import limits
from beeyard_runtime.log import get_log

from beeyard_queen.policy.deltas import Delta
from beeyard_queen.policy.journal_file import (
    BEFORE,
    FORMAT,
    SUFFIX,
    VERSION,
    DecisionEntry,
    DeltasEntry,
    Entry,
    JournalInvalid,
    JournalReader,
    Opening,
    PolicyEntry,
    StateEntry,
    WorldEntry,
    context_digest,
    journal_files,
    pack_entry,
)

_log = get_log("journal")


class _Batch(NamedTuple):
    """What is written at once.

    Attributes:
        file: Which file since the start, from 1. The first batch of a file begins it.
    """

    file: int
    entries: list[Entry]


class _Writer(threading.Thread):
    """Packs and writes batches of entries. Others read `fault` and `reached` and change neither."""

    def __init__(self, folder: Path, files_max: int) -> None:
        super().__init__(name="decision-journal", daemon=True)
        #: A file of which no more is written, and why.
        self.fault = (0, "")
        #: The file that is written, and how many bytes of it are.
        self.reached = (0, 0)
        self._folder = folder
        self._files_max = files_max
        self._file: BinaryIO | None = None
        self._batches: queue.Queue[_Batch | threading.Event | None] = queue.Queue(
            limits.POLICY_JOURNAL_BATCHES_MAX
        )

    def give(self, batch: _Batch) -> bool:
        """Take a batch; whether there was room for it."""
        try:
            self._batches.put_nowait(batch)
        except queue.Full:
            return False
        return True

    def finish(self) -> None:
        """Write what is there and end."""
        self._batches.put(None)
        self.join()

    def written(self) -> threading.Event:
        """Return what is set once everything that was given so far is written."""
        event = threading.Event()
        self._batches.put(event)
        return event

    def run(self) -> None:
        """Write until the end."""
        while (batch := self._batches.get()) is not None:
            if isinstance(batch, threading.Event):
                batch.set()
                continue
            try:
                self._write(batch)
            except OSError as fault:
                self.fault = (batch.file, fault.strerror or str(fault))
                self._close()
        self._close()

    def _write(self, batch: _Batch) -> None:
        if batch.file != self.reached[0]:
            self._close()
            self.reached = (batch.file, 0)
            self._file = self._opened()
        if self._file is not None:
            body = b"".join(map(pack_entry, batch.entries))
            self._file.write(body)
            self._file.flush()
            self.reached = (batch.file, self.reached[1] + len(body))

    def _opened(self) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        files = journal_files(self._folder)
        number = int(files[-1].stem.partition("-")[2]) + 1 if files else 1
        for old in files[: max(0, len(files) + 1 - self._files_max)]:
            old.unlink()
        return (self._folder / f"decisions-{number:010}{SUFFIX}").open("xb")

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class DecisionJournal:
    """The journal of one queen. One thread calls it; none of its methods but `close` and `flush` waits."""

    def __init__(
        self,
        folder: Path,
        snapshot: Callable[[], Iterable[Delta]],
        *,
        file_bytes_max: int = limits.POLICY_JOURNAL_FILE_BYTES_MAX,
        files_max: int = limits.POLICY_JOURNAL_FILES_MAX,
    ) -> None:
        """Prepare; the first file begins with the first entry.

        Args:
            folder: Where the files lie; made if need be.
            snapshot: Yields deltas that build the world as the mirrors have it, everything noted included; waiting
                jobs come last, each as it is when it is asked for.
            file_bytes_max: After how many bytes another file begins; a file is a batch longer at most.
            files_max: How many files are kept, the one that is written included.

        Raises:
            OSError: What is there already cannot be read.
        """
        #: How many `deltas` entries there were: what a policy that is asked now has seen.
        self.position = 0
        #: Entries that were not written, because the disk was too slow or full.
        self.lost = 0
        self._snapshot = snapshot
        self._file_bytes_max = file_bytes_max
        self._policies: dict[str, PolicyEntry] = {}
        self._states = last_states(folder)
        self._batch: list[Entry] = []
        self._batch_since_ms = 0
        self._file = 0
        self._base = 0
        self._rest: Iterator[Delta] | None = None
        self._is_open = False
        self._retry_at_ms = 0
        self._writer = _Writer(folder, files_max)
        self._writer.start()

    def state_of(self, digest: str) -> bytes:
        """Return what `context.state` of a policy held last, before a restart included; empty: nothing."""
        return self._states.get(digest, b"")

    def learn(self, digest: str, label: str, source: bytes) -> None:
        """Tell of a policy of the operator's before its first decision. The last few are in every file."""
        self._policies.pop(digest, None)
        self._policies[digest] = entry = PolicyEntry(digest, label, source)
        for old in list(self._policies)[: -limits.POLICY_JOURNAL_POLICIES_MAX]:
            del self._policies[old]
            self._states.pop(old, None)
        if self._is_open:
            self._batch += [entry, StateEntry(digest, self.state_of(digest))]

    def note(self, deltas: Sequence[Delta]) -> None:
        """Note what the mirrors are told."""
        if not deltas:
            return
        self.position += 1
        if not self._is_open:
            return
        if self._rest is None:
            self._batch.append(DeltasEntry(list(deltas)))
        else:
            # Part of the picture, like the rows that are still to be cut, which are younger.
            self._batch.append(WorldEntry(list(deltas)))
            self._picture()

    def record(
        self,
        *,
        now_ms: int,
        seed: int,
        label: str,
        digest: str,
        decided: bytes,
        state: bytes | None = None,
        state_version: int = 0,
        position: int | None = None,
    ) -> None:
        """Record one decision; what the mirrors were told before it was noted.

        Args:
            now_ms: The instant that the policy saw.
            seed: What its chance was drawn from.
            label: The policy, as `name@version`.
            digest: Of its text.
            decided: The bytes of the decision: `intent_bytes`, or `decided` of a host's reply.
            state: What `context.state` holds now, if it changed.
            state_version: The queen's version of the state.
            position: `position` as it was when the policy was asked; None: it was asked just now.
        """
        if not self._is_ready(now_ms):
            self.lost += 1
            return
        asked = (self.position if position is None else position) - self._base
        if self._rest is not None:
            asked = BEFORE  # the picture that it would be repeated on is not complete
        self._batch.append(
            DecisionEntry(
                asked if asked >= 0 else BEFORE,
                state_version,
                label,
                digest,
                now_ms,
                seed,
                decided,
                state,
            )
        )
        if state is not None:
            self._states[digest] = state
        is_old = now_ms - self._batch_since_ms >= limits.POLICY_JOURNAL_BATCH_MS
        if state is not None or is_old or len(self._batch) >= limits.POLICY_JOURNAL_BATCH_ENTRIES:
            self._hand_over(now_ms)

    def flush(self) -> None:
        """Return once everything so far is in the file. Waits for the disk; for tests and tools."""
        self._hand_over(self._batch_since_ms)
        self._writer.written().wait()

    def close(self) -> None:
        """Write what is left and end. Waits for the disk."""
        self._hand_over(self._batch_since_ms)
        self._writer.finish()

    # --- Files ---

    def _is_ready(self, now_ms: int) -> bool:
        """Whether there is a file to write to; begin one if it is time."""
        failed, reason = self._writer.fault
        if self._is_open and failed == self._file:
            _log.error("journal_stopped", reason=reason)
            self._drop(now_ms)
        if self._is_open and self._writer.reached > (self._file, self._file_bytes_max):
            self._hand_over(now_ms)
            self._is_open = False
        if not self._is_open and now_ms >= self._retry_at_ms:
            self._begin()
        return self._is_open

    def _begin(self) -> None:
        self._is_open = True
        self._file += 1
        self._batch = [Opening(FORMAT, VERSION, context_digest())]
        self._rest = iter(self._snapshot())
        self._picture()
        for digest, policy in self._policies.items():
            self._batch.append(policy)
            self._batch.append(StateEntry(digest, self.state_of(digest)))

    def _picture(self) -> None:
        """Cut the next piece of the world: a long queue in one go would hold the writer loop up.

        All that stands before the waiting jobs is cut at the beginning, and only jobs are cut as they are asked for.
        """
        has_jobs = False
        while self._rest is not None and not has_jobs:
            part = list(islice(self._rest, limits.POLICY_DELTAS_PER_MESSAGE))
            self._batch.append(WorldEntry(part))
            has_jobs = any(delta[0] == "job" for delta in part)
            if len(part) < limits.POLICY_DELTAS_PER_MESSAGE:
                self._rest, self._base = None, self.position

    def _hand_over(self, now_ms: int) -> None:
        if self._batch and self._is_open and not self._writer.give(_Batch(self._file, self._batch)):
            _log.warning("journal_behind", lost=len(self._batch))
            self._drop(now_ms)
        self._batch, self._batch_since_ms = [], now_ms

    def _drop(self, now_ms: int) -> None:
        self.lost += len(self._batch)
        self._batch, self._is_open = [], False
        self._retry_at_ms = now_ms + limits.POLICY_JOURNAL_RETRY_MS


def last_states(folder: Path) -> dict[str, bytes]:
    """Return what `context.state` of each policy held last, by digest, as the newest file of a journal has it."""
    states: dict[str, bytes] = {}
    for path in journal_files(folder)[-1:]:
        try:
            for _, entry in JournalReader(path).entries(StateEntry, DecisionEntry):
                if isinstance(entry, StateEntry) or (
                    isinstance(entry, DecisionEntry) and entry.state is not None
                ):
                    states[entry.digest] = entry.state or b""
        except JournalInvalid as fault:
            _log.warning("journal_unreadable", file=path.name, reason=str(fault))
    return states
