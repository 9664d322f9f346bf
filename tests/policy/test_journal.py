"""The decision journal: bounded, complete from any file on, and never in anybody's way."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from beeyard_core import limits
from beeyard_queen.policy.deltas import Delta
from beeyard_queen.policy.journal import DecisionJournal
from beeyard_queen.policy.journal_file import (
    BEFORE,
    DecisionEntry,
    DeltasEntry,
    Entry,
    JournalReader,
    Opening,
    PolicyEntry,
    StateEntry,
    WorldEntry,
    journal_files,
)

WORLD: list[Delta] = [("pool", "p", "ready", 5), ("worker_gone", "w")]


def read(folder: Path) -> list[list[Entry]]:
    """Every entry of every file, the oldest file first."""
    return [[entry for _, entry in JournalReader(path).entries()] for path in journal_files(folder)]


def record(journal: DecisionJournal, now_ms: int, **more: object) -> None:
    journal.record(
        now_ms=now_ms, seed=1, label="p@1", digest="d", decided=b"x", **more  # type: ignore[arg-type]  # as given
    )  # fmt: skip


def test_a_file_holds_the_world_the_policies_and_each_decision_with_what_was_told_before(
    tmp_path: Path,
) -> None:
    journal = DecisionJournal(tmp_path / "new", lambda: WORLD)
    journal.learn("d", "p@1", b"source")
    journal.note([("job_gone", "before")])  # it is in the world that the file begins with
    record(journal, 10)
    journal.note([("job_gone", "a"), ("job_gone", "b")])
    journal.note([])
    record(journal, 11, state=b"s", state_version=7)
    journal.close()
    ((opening, *entries),) = read(tmp_path / "new")
    assert isinstance(opening, Opening)
    assert entries == [
        WorldEntry(tuple(WORLD)),  # type: ignore[arg-type]  # lists are read as tuples
        PolicyEntry("d", "p@1", b"source"),
        StateEntry("d", b""),
        DecisionEntry(0, 0, "p@1", "d", 10, 1, b"x", None),
        DeltasEntry((("job_gone", "a"), ("job_gone", "b"))),  # type: ignore[arg-type]  # the same
        DecisionEntry(1, 7, "p@1", "d", 11, 1, b"x", b"s"),
    ]


def test_the_answer_to_an_earlier_question_stands_where_it_was_asked(tmp_path: Path) -> None:
    journal = DecisionJournal(tmp_path, lambda: WORLD)
    asked = journal.position
    journal.note([("job_gone", "a")])
    record(journal, 10)
    record(journal, 11, position=asked)
    asked = journal.position
    journal.note([("job_gone", "b")])
    record(journal, 12, position=asked)
    journal.close()
    (entries,) = read(tmp_path)
    positions = [entry.position for entry in entries if isinstance(entry, DecisionEntry)]
    assert positions == [0, BEFORE, 0]


def test_a_long_queue_is_pictured_in_pieces_and_what_changes_meanwhile_is_part_of_it(
    tmp_path: Path,
) -> None:
    part = limits.POLICY_DELTAS_PER_MESSAGE
    cut: list[int] = []

    def world() -> Iterator[Delta]:
        yield from (("worker_gone", f"w{n}") for n in range(part + 1))
        for n in range(2 * part):
            cut.append(n)
            yield ("job", f"j{n}")

    journal = DecisionJournal(tmp_path, world)
    record(journal, 10)
    assert len(cut) == part - 1  # all that is no job, and the jobs that fill up the piece
    journal.note([("job_gone", "j1")])
    record(journal, 11)
    journal.note([("job_gone", "j2")])
    record(journal, 12)
    journal.note([("job_gone", "j3")])
    record(journal, 13)
    journal.close()
    assert len(cut) == 2 * part
    (entries,) = read(tmp_path)
    pictured = [delta for e in entries if isinstance(e, WorldEntry) for delta in e.deltas]
    gone = [n for n, delta in enumerate(pictured) if delta[0] == "job_gone"]
    # What was told stands ahead of the jobs that were cut after it.
    assert [pictured[n][1] for n in gone] == ["j1", "j2"]
    assert pictured[gone[0] + 1] == ("job", f"j{part - 1}")
    told = [delta for e in entries if isinstance(e, DeltasEntry) for delta in e.deltas]
    assert told == [("job_gone", "j3")]
    positions = [entry.position for entry in entries if isinstance(entry, DecisionEntry)]
    assert positions == [BEFORE, BEFORE, 0, 1]


def test_the_journal_is_bounded(tmp_path: Path) -> None:
    journal = DecisionJournal(tmp_path, lambda: WORLD, file_bytes_max=2_000, files_max=2)
    for n in range(300):
        journal.note([("job_gone", f"j{n}")])
        record(journal, n)
        journal.flush()
    journal.close()
    files = journal_files(tmp_path)
    assert [path.name for path in files] != ["decisions-0000000001.journal"]
    assert len(files) == 2
    assert sum(path.stat().st_size for path in files) < 5_000
    assert all(isinstance(entries[1], WorldEntry) for entries in read(tmp_path))


def test_a_queen_that_comes_back_knows_what_policies_kept(tmp_path: Path) -> None:
    journal = DecisionJournal(tmp_path, lambda: WORLD)
    journal.learn("d", "p@1", b"source")
    record(journal, 1, state=b"first")
    record(journal, 2, state=b"second")
    record(journal, 3)
    journal.close()
    again = DecisionJournal(tmp_path, lambda: WORLD)
    assert (again.state_of("d"), again.state_of("other")) == (b"second", b"")
    again.learn("d", "p@1", b"source")
    record(again, 4)
    again.close()
    assert StateEntry("d", b"second") in read(tmp_path)[1]


def test_a_disk_that_takes_nothing_loses_entries_and_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    in_the_way = tmp_path / "journal"
    in_the_way.write_text("a file where the folder should be")
    journal = DecisionJournal(in_the_way, lambda: WORLD)
    record(journal, 1)
    journal.flush()
    record(journal, 2)
    record(journal, 3)
    assert journal.lost == 2
    in_the_way.unlink()
    journal.note([("job_gone", "a")])
    record(journal, 2 + limits.POLICY_JOURNAL_RETRY_MS)
    journal.close()
    ((_, world, decision),) = read(in_the_way)
    assert isinstance(world, WorldEntry)
    assert isinstance(decision, DecisionEntry)
    assert decision.position == 0
    assert "journal_stopped" in capfd.readouterr().err


def test_a_journal_that_cannot_be_read_costs_what_policies_kept(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "decisions-0000000007.journal").write_bytes(b"\x05\x00\x00\x00nonsense")
    journal = DecisionJournal(tmp_path, lambda: WORLD)
    record(journal, 1)
    journal.close()
    assert [path.stem for path in journal_files(tmp_path)][-1] == "decisions-0000000008"
    assert "journal_unreadable" in capfd.readouterr().err


def test_a_file_of_another_name_is_left_alone(tmp_path: Path) -> None:
    stranger = tmp_path / "decisions-abc.journal"
    stranger.write_bytes(b"mine")
    journal = DecisionJournal(tmp_path, lambda: WORLD, files_max=1)
    record(journal, 10)
    journal.close()
    assert stranger.read_bytes() == b"mine"
    assert len(read(tmp_path)) == 1
