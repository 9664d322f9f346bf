"""`policy replay`: the decisions of a journal, made again, which must come out equal byte for byte."""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path

from beeyard_runtime.faults import StartFailed

from beeyard_queen.policy.host_process import HostGone
from beeyard_queen.policy.journal_file import JournalInvalid, journal_files
from beeyard_queen.policy.replay import Replay, Replayed
from beeyard_queen.policy.trial import sandbox

EXIT_EQUAL, EXIT_DIFFERENT, EXIT_USAGE = 0, 1, 2


def main(argv: list[str]) -> int:
    """Run `policy replay`.

    Args:
        argv: What follows `replay` on the command line.

    Returns:
        The exit code: 0 all decisions were equal, 1 one was not, 2 a file cannot be read.
    """
    options = _parser().parse_args(argv)
    journal = Path(options.journal)
    paths = journal_files(journal) if journal.is_dir() else [journal]
    if not paths:
        return _complain(f"{journal} holds no decision journal")
    try:
        reports = asyncio.run(_replayed(paths))
    except JournalInvalid as fault:
        return _complain(f"{journal}: {fault}")
    except OSError as fault:
        return _complain(f"{fault.filename or journal}: {fault.strerror}")
    except (StartFailed, HostGone) as fault:
        return _complain(str(fault))
    sys.stdout.write(_as_json(reports) if options.json else _as_text(reports))
    return EXIT_DIFFERENT if any(report.differences for report in reports.values()) else EXIT_EQUAL


async def _replayed(paths: list[Path]) -> dict[str, Replayed]:
    async with sandbox() as zygote:
        return {path.name: await Replay(zygote, path).run(_progress(path)) for path in paths}


def _progress(path: Path) -> Callable[[int], None]:
    """Return what shows how far a file is, to whoever sits in front of a terminal."""
    size, shown = max(path.stat().st_size, 1), -1

    def show(done: int) -> None:
        nonlocal shown
        percent = done * 100 // size
        if sys.stderr.isatty() and percent != shown:
            shown = percent
            sys.stderr.write(f"\r{path.name} {percent:3} %" + ("\n" if done >= size else ""))
            sys.stderr.flush()

    return show


def _complain(message: str) -> int:
    sys.stderr.write(f"beeyard policy: {message}\n")
    return EXIT_USAGE


def _as_text(reports: dict[str, Replayed]) -> str:
    lines = []
    for name, report in reports.items():
        verdict = f"{report.differences} differ" if report.differences else "all equal"
        lines.append(f"{name}: {report.decisions} decisions made again, {verdict}")
        lines += [f"  {label}: {n}" for label, n in sorted(report.by_label.items())]
        lines += [f"  skipped {n}: {why}" for why, n in sorted(report.skipped.items())]
        lines += [f"  {remark}" for remark in report.remarks]
        if report.first is not None:
            lines.append(f"  the first that differs: {report.first.told()}")
    return "\n".join(lines) + "\n"


def _as_json(reports: dict[str, Replayed]) -> str:
    told = [
        {
            "file": name,
            "decisions": report.decisions,
            "by_label": dict(report.by_label),
            "differences": report.differences,
            "first_difference": report.first.told() if report.first else None,
            "skipped": dict(report.skipped),
            "remarks": report.remarks,
        }
        for name, report in reports.items()
    ]
    return json.dumps(told, ensure_ascii=False) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="beeyard policy replay",
        description="Make the decisions of a journal again and compare them byte for byte.",
        epilog="Exit code 0: all are equal; 1: one is not; 2: it could not be tried.",
    )
    parser.add_argument(
        "journal", metavar="JOURNAL", help="a file of a decision journal, or the folder with all"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list, a file each")
    return parser
