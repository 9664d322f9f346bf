"""`python -m beeyard_queen.store check|backup|restore`: what can be done with a store's file without a queen."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from beeyard_queen.store.backup import Copied, backup, restore
from beeyard_queen.store.checking import check_store
from beeyard_queen.store.port import StoreRefused


def main(arguments: Sequence[str]) -> int:
    """Run a command; return the exit code: 0, or 1 if something is wrong."""
    asked = _parser().parse_args(arguments)
    try:
        return int(asked.run(asked))
    except StoreRefused as fault:
        sys.stderr.write(f"beeyard {asked.command}: {' '.join(str(fault).split())}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="beeyard", description="A queen's store without a queen.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="look a store over")
    check.add_argument("store", type=Path, metavar="FILE")
    check.set_defaults(run=_check)
    copy = commands.add_parser(
        "backup",
        help="copy a store while a queen uses it",
        description="Copy a store as it is at this moment, also while a queen uses it. Nobody waits for it.",
    )
    copy.add_argument("target", type=Path, metavar="BACKUP", help="where the copy goes")
    back = commands.add_parser(
        "restore",
        help="put a backup back",
        description=(
            "Put a backup where a queen will look for its store. Jobs that were accepted after the backup are not "
            "in it. Lease numbers go on far above the old ones, so that no worker of before can pass for one of after."
        ),
    )
    back.add_argument("target", type=Path, metavar="BACKUP", help="the copy to put back")
    for one, run in ((copy, _backup), (back, _restore)):
        one.add_argument(
            "--store", type=Path, default=Path("beeyard.sqlite"), metavar="FILE",
            help="the queen's store (default: %(default)s)",
        )  # fmt: skip
        one.add_argument("--replace", action="store_true", help="replace a file that is there")
        one.add_argument("--json", action="store_true", dest="as_json", help="JSON on stdout")
        one.set_defaults(run=run)
    return parser


def _check(asked: argparse.Namespace) -> int:
    findings = check_store(asked.store)
    json.dump([dataclasses.asdict(each) for each in findings], sys.stdout)
    return int(any(each.level == "fail" for each in findings))


def _backup(asked: argparse.Namespace) -> int:
    progress = _silent if asked.as_json or not sys.stderr.isatty() else _percent
    copied = backup(asked.store, asked.target, replace=asked.replace, progress=progress)
    _tell(copied, as_json=asked.as_json)
    return 0


def _restore(asked: argparse.Namespace) -> int:
    _tell(restore(asked.target, asked.store, replace=asked.replace), as_json=asked.as_json)
    return 0


def _tell(copied: Copied, *, as_json: bool) -> None:
    if as_json:
        json.dump(dataclasses.asdict(copied), sys.stdout)
        sys.stdout.write("\n")
        return
    sys.stdout.write(
        f"{copied.path}: {copied.size_bytes} bytes, {copied.jobs} jobs of which {copied.jobs_unfinished} are "
        f"unfinished, in {copied.seconds:.2f} s\n"
    )


def _silent(done: int, total: int) -> None:
    del done, total


def _percent(done: int, total: int) -> None:
    sys.stderr.write(f"\r{100 * done // max(total, 1)} %" + ("\n" if done == total else ""))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
