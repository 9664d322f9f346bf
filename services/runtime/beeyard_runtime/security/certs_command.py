"""`beeyard certs init|issue|renew`: a private authority for the lab, and what it signs."""

import argparse
import datetime as dt
import json
import re
import sys
from pathlib import Path
from typing import Final

from beeyard_core import limits

from beeyard_runtime.security.certificates import (
    AUTHORITY_DAYS,
    CERT_DAYS,
    PeerName,
    issue,
    issued_to,
    make_authority,
)
from beeyard_runtime.security.private_file import replace, write_new

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_DAYS_MAX: Final = 36_500
_CERT_MODE: Final = 0o644


def main(arguments: list[str], now: dt.datetime) -> int:
    """Run the command at the moment `now`; return the exit code: 0, 1 if it cannot be done, 2 for a wrong call."""
    options = _parser().parse_args(arguments)
    try:
        told = {"init": _init, "issue": _issue, "renew": _renew}[options.command](options, now)
    except FileExistsError as fault:
        return _complain(f"{fault.filename} is there already; move it away first")
    except FileNotFoundError as fault:
        return _complain(f"{fault.filename} is not there; beeyard certs init makes an authority")
    except OSError as fault:
        return _complain(f"{fault.filename}: {fault.strerror}")
    except ValueError as fault:
        return _complain(str(fault))
    if options.json:
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        sys.stdout.write("".join(f"{name:8} {value}\n" for name, value in told.items()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="beeyard certs",
        description="A private authority for the lab. Keep ca.key where nobody else gets at it; hand out ca.pem.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    init = commands.add_parser("init", help="make an authority: ca.pem and ca.key")
    init.add_argument(
        "--name", default="Beeyard lab", help="what it is called (default %(default)s)"
    )
    init.add_argument(
        "--days",
        type=_days,
        default=AUTHORITY_DAYS,
        help="how long it counts (default %(default)s)",
    )
    one = commands.add_parser("issue", help="make a certificate: NAME.pem and NAME.key")
    one.add_argument("name", type=_plain, metavar="NAME", help="of the files, and for people")
    one.add_argument(
        "--host", action="append", default=[], help="a host name or address; may be repeated"
    )
    one.add_argument("--pool", type=_identity, help="its holder is this pool, or a worker of it")
    one.add_argument("--worker", type=_identity, help="... and in it only this worker")
    one.add_argument(
        "--days", type=_days, default=CERT_DAYS, help="how long it counts (default %(default)s)"
    )
    again = commands.add_parser(
        "renew",
        help="make NAME.pem and NAME.key anew, for the same hosts; who uses them need not restart",
    )
    again.add_argument("name", type=_plain, metavar="NAME", help="of the files")
    again.add_argument(
        "--days", type=_days, default=CERT_DAYS, help="how long it counts (default %(default)s)"
    )
    for command in (init, one, again):
        command.add_argument(
            "--dir",
            type=Path,
            default=Path("certs"),
            help="where the files are (default %(default)s)",
        )
        command.add_argument("--json", action="store_true", help="say as JSON what was made")
    return parser


def _init(options: argparse.Namespace, now: dt.datetime) -> dict[str, str]:
    folder: Path = options.dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = make_authority(options.name, days=options.days, now=now)
    cert, key = folder / "ca.pem", folder / "ca.key"
    write_new(key, made.key)
    write_new(cert, made.cert, mode=_CERT_MODE)
    return {"ca": str(cert), "key": str(key), "until": f"{made.ends:%Y-%m-%d}"}


def _issue(options: argparse.Namespace, now: dt.datetime) -> dict[str, str]:
    if options.worker and not options.pool:
        raise ValueError("--worker needs --pool: a worker belongs to a pool")
    if options.name == "ca":
        raise ValueError("ca is the authority; choose another name")
    folder: Path = options.dir
    authority = (folder / "ca.pem").read_bytes(), (folder / "ca.key").read_bytes()
    peer = PeerName(options.pool, options.worker or "") if options.pool else None
    made = issue(authority, options.name, hosts=options.host, peer=peer, days=options.days, now=now)
    cert, key = folder / f"{options.name}.pem", folder / f"{options.name}.key"
    write_new(key, made.key)
    write_new(cert, made.cert, mode=_CERT_MODE)
    told = {"cert": str(cert), "key": str(key), "until": f"{made.ends:%Y-%m-%d}"}
    return told | ({"is": peer.uri} if peer else {})


def _renew(options: argparse.Namespace, now: dt.datetime) -> dict[str, str]:
    if options.name == "ca":
        raise ValueError("a new authority is made by init, in another folder; see docs/security.md")
    folder: Path = options.dir
    cert, key = folder / f"{options.name}.pem", folder / f"{options.name}.key"
    hosts, peer = issued_to(cert.read_bytes())
    authority = (folder / "ca.pem").read_bytes(), (folder / "ca.key").read_bytes()
    made = issue(authority, options.name, hosts=hosts, peer=peer, days=options.days, now=now)
    # Who reads between the two finds that they do not fit, keeps what it has, and looks again.
    replace(key, made.key)
    replace(cert, made.cert, mode=_CERT_MODE)
    told = {"cert": str(cert), "key": str(key), "until": f"{made.ends:%Y-%m-%d}"}
    return told | ({"is": peer.uri} if peer else {})


def _days(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text[:9]) <= _DAYS_MAX):
        raise argparse.ArgumentTypeError(f"must be 1 to {_DAYS_MAX}")
    return int(text)


def _plain(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError("must be letters, digits, dots, hyphens and underscores")
    return text


def _identity(text: str) -> str:
    if not 1 <= len(text.encode()) <= limits.ID_BYTES_MAX:
        raise argparse.ArgumentTypeError(f"must be 1 to {limits.ID_BYTES_MAX} bytes")
    return text


def _complain(message: str) -> int:
    sys.stderr.write(f"beeyard certs: {message}\n")
    return 1
